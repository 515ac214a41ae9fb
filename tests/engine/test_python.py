"""Calls and bytecode instructions: the same work gives the same numbers, and they say where."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_llmbench.probes.python import Counts, PythonRecorder
from pytest_llmbench.probes.recorder import NotCounted

HERE = f"{__name__.replace('.', '/')}.py"


def work(times: int) -> None:
    for _ in range(times):
        leaf([1])


def leaf(values: list[int]) -> int:
    return len(values)


def loop(times: int) -> int:
    total = 0
    for index in range(times):
        total += index
    return total


def counted(step: Callable[[], Any], optimizer_step: Callable[[], Any] = lambda: None) -> PythonRecorder:
    with PythonRecorder(all_threads=False) as recorder:
        recorder.begin()
        step()
        recorder.boundary()
        optimizer_step()
        recorder.end()
    return recorder


def at(place: str, counts: Counts) -> int:
    """Instructions of a function of this file, what it called of torch included."""
    return sum(cell.instructions for cell in counts.cells.values() if cell.place == f"{HERE}:{place}")


def test_the_same_work_gives_the_same_numbers() -> None:
    one, other = (counted(lambda: work(50)).micro_batches for _ in range(2))

    assert (one.calls, one.instructions) == (other.calls, other.instructions)


def test_each_python_and_each_c_call_counts() -> None:
    more, fewer = (counted(partial(work, times)).micro_batches for times in (60, 50))

    assert more.calls - fewer.calls == 20


def test_a_loop_without_a_call_shows_in_the_instructions_of_its_function() -> None:
    more, fewer = (counted(partial(loop, times)).micro_batches for times in (1100, 100))

    assert more.calls == fewer.calls
    assert at("loop", more) - at("loop", fewer) == more.instructions - fewer.instructions >= 3000


def test_micro_batches_and_optimizer_step_are_counted_apart() -> None:
    ran = counted(lambda: work(10), lambda: work(30))

    assert ran.optimizer_step.calls - ran.micro_batches.calls == 40


def test_what_torch_does_counts_for_the_function_that_called_it() -> None:
    module = nn.Sequential(*(nn.Identity() for _ in range(20)))

    def step() -> None:
        module(1)

    counts = counted(step).micro_batches

    places = {cell.place.rpartition(":")[2].rpartition(".")[2] for cell in counts.cells.values()}
    assert "step" in places
    assert not any(cell.place.startswith("torch/") for cell in counts.cells.values())
    assert any(cell.name.startswith("torch/nn/") for cell in counts.cells.values())


@pytest.mark.parametrize("take", [Tensor.tolist, Tensor.numpy, Tensor.cpu])
def test_a_tensor_that_the_host_takes_is_a_read(take: Callable[[Tensor], Any]) -> None:
    x, name = torch.ones(4), take.__name__

    counts = counted(getattr(x, name)).micro_batches

    assert counts.reads == 1


def test_a_pass_that_is_left_half_way_leaves_nothing_counting() -> None:
    with PythonRecorder(all_threads=False) as recorder:
        recorder.begin()

    assert (sys.getprofile(), sys.gettrace()) == (None, None)
    assert counted(lambda: work(50)).micro_batches.calls == counted(lambda: work(50)).micro_batches.calls


def test_threads_that_the_step_starts_are_counted() -> None:
    def step() -> None:
        thread = threading.Thread(target=work, args=(1000,))
        thread.start()
        thread.join()

    counts = counted(step).micro_batches

    assert counts.calls >= 2000
    assert at("work", counts) >= 5000


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in Python 3.12")
def test_threads_that_were_there_before_are_counted_where_it_is_asked_for() -> None:
    begin = threading.Event()

    def wait() -> None:
        begin.wait()
        work(1000)

    thread = threading.Thread(target=wait)
    thread.start()
    with PythonRecorder(all_threads=True) as recorder:
        recorder.begin()
        begin.set()
        thread.join()
        recorder.boundary()
        recorder.end()

    assert recorder.micro_batches.calls >= 2000


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="counts all threads")
def test_threads_that_cannot_be_counted_are_said() -> None:
    with pytest.raises(NotCounted, match=r"Python 3\.12"):
        PythonRecorder(all_threads=True)


def test_another_profiler_is_left_alone() -> None:
    before = sys.getprofile()
    sys.setprofile(lambda *_: None)
    try:
        with pytest.raises(NotCounted, match="another profiler"):
            PythonRecorder(all_threads=False)
    finally:
        sys.setprofile(before)
