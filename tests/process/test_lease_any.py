"""Runs that want any of several GPUs take different ones, and none of them waits for ever."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pytest_llmbench.executors.lease import GpuHeldError, lease

FOUR = ("GPU-d", "GPU-c", "GPU-b", "GPU-a")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_the_first_free_gpus_are_taken_in_the_order_that_is_given() -> None:
    with lease(["GPU-c"], pytest.fail), lease(FOUR, pytest.fail, count=2) as held:
        assert held == ("GPU-d", "GPU-b")


def test_a_gpu_is_free_again_after_its_lease() -> None:
    for _ in range(2):
        with lease(FOUR[:1], pytest.fail, count=1) as held:
            assert held == ("GPU-d",)


def test_whoever_finds_too_few_waits_for_one_that_gets_free() -> None:
    announced: list[str] = []
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lease(["GPU-d"], pytest.fail):
            held.set()
            release.wait(10)

    def announce(sentence: str) -> None:
        announced.append(sentence)
        release.set()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    with lease(["GPU-c"], pytest.fail), lease(FOUR[:2], announce, count=1, timeout=10) as found:
        assert found == ("GPU-d",)
    holder.join()

    assert announced == [f"waiting for 1 of the GPUs GPU-d, GPU-c, held by pid {os.getpid()}"]


def test_too_few_free_gpus_are_given_back() -> None:
    with lease(["GPU-d"], pytest.fail):
        with (
            pytest.raises(GpuHeldError, match="GPU GPU-d is still held by pid"),
            lease(FOUR[:2], lambda _: None, count=2, timeout=0.3),
        ):
            pass
        with lease(["GPU-c"], pytest.fail):
            pass


def test_threads_that_want_several_of_few_all_get_theirs() -> None:
    in_use: set[str] = set()
    guard = threading.Lock()
    finished: list[int] = []

    def want(count: int) -> None:
        for _ in range(3):
            with lease(FOUR, lambda _: None, count=count, timeout=60) as held:
                with guard:
                    assert not in_use & set(held)
                    in_use.update(held)
                time.sleep(0.01)
                with guard:
                    in_use.difference_update(held)
        finished.append(count)

    threads = [threading.Thread(target=want, args=(count,)) for count in (3, 2, 2, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(finished) == [1, 2, 2, 3]
