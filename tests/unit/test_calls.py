"""Counting calls: the same work gives the same number, and more calls give a larger one."""

from __future__ import annotations

import sys
import threading

import pytest
from pytest_llmbench.probes.calls import CallRecorder

from pytest_llmbench.probes.recorder import NotCounted


def work(times: int) -> None:
    for _ in range(times):
        leaf([1])


def leaf(values: list[int]) -> int:
    return len(values)


def counted(micro_batches: int, optimizer_step: int = 0) -> CallRecorder:
    with CallRecorder(all_threads=False) as recorder:
        recorder.begin()
        work(micro_batches)
        recorder.boundary()
        work(optimizer_step)
        recorder.end()
    return recorder


def test_the_same_work_gives_the_same_number() -> None:
    assert counted(50).micro_batches == counted(50).micro_batches


def test_each_python_and_each_c_call_counts() -> None:
    assert counted(60).micro_batches - counted(50).micro_batches == 20


def test_micro_batches_and_optimizer_step_are_counted_apart() -> None:
    ran = counted(10, 30)

    assert ran.optimizer_step - ran.micro_batches == 40


def test_a_pass_that_is_left_half_way_leaves_nothing_counting() -> None:
    with CallRecorder(all_threads=False) as recorder:
        recorder.begin()

    assert sys.getprofile() is None
    assert counted(50).micro_batches == counted(50).micro_batches


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in Python 3.12")
def test_threads_are_counted_where_it_is_asked_for() -> None:
    with CallRecorder(all_threads=True) as recorder:
        recorder.begin()
        thread = threading.Thread(target=work, args=(1000,))
        thread.start()
        thread.join()
        recorder.boundary()
        recorder.end()

    assert recorder.micro_batches >= 2000


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="counts all threads")
def test_threads_that_cannot_be_counted_are_said() -> None:
    with pytest.raises(NotCounted, match=r"Python 3\.12"):
        CallRecorder(all_threads=True)


def test_another_profiler_is_left_alone() -> None:
    before = sys.getprofile()
    sys.setprofile(lambda *_: None)
    try:
        with pytest.raises(NotCounted, match="another profiler"):
            CallRecorder(all_threads=False)
    finally:
        sys.setprofile(before)
