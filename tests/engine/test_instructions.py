"""Counting what threads do by the kernel's counters; by one of software where the machine has none of instructions."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pytest_llmbench.probes.instructions import HARDWARE_INSTRUCTIONS, InstructionRecorder
from pytest_llmbench.probes.recorder import NotCounted

TASK_CLOCK = (1, 1)
"""Nanoseconds that the threads ran."""


def spin(rounds: int = 300_000) -> None:
    for _ in range(rounds):
        pass


def counted(do: Callable[[], None], event: tuple[int, int] = TASK_CLOCK) -> tuple[int, int]:
    try:
        recorder = InstructionRecorder(event)
    except NotCounted as reason:
        pytest.skip(str(reason))
    with recorder:
        recorder.begin()
        do()
        recorder.boundary()
        recorder.end()
    return recorder.micro_batches, recorder.optimizer_step


def test_each_part_of_the_step_has_its_own_count() -> None:
    work, nothing = counted(spin)

    assert work > 10 * nothing > 0


def test_threads_that_are_there_already_count() -> None:
    go, done = threading.Event(), threading.Event()

    def wait_and_spin() -> None:
        go.wait()
        spin(3_000_000)
        done.set()

    thread = threading.Thread(target=wait_and_spin)
    thread.start()

    def release() -> None:
        go.set()
        done.wait()

    with_thread, _ = counted(release)
    thread.join()
    alone, _ = counted(lambda: None)

    assert with_thread > 100 * alone


def test_threads_that_are_started_count() -> None:
    def start() -> None:
        thread = threading.Thread(target=spin, args=(3_000_000,))
        thread.start()
        thread.join()

    with_thread, _ = counted(start)
    alone, _ = counted(lambda: None)

    assert with_thread > 20 * alone


def test_the_same_work_is_the_same_number_of_instructions() -> None:
    first, _ = counted(spin, HARDWARE_INSTRUCTIONS)
    second, _ = counted(spin, HARDWARE_INSTRUCTIONS)

    assert second == pytest.approx(first, rel=0.02)


def test_what_the_kernel_does_not_know_is_refused_with_its_reason() -> None:
    with pytest.raises(NotCounted, match="the kernel does not count them here: "):
        InstructionRecorder((0, 2**40))
