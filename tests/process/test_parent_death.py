"""When the pytest process goes, everything it started goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import marked

if TYPE_CHECKING:
    from tests.process.conftest import Bench

PARENT = Path(__file__).with_name("parent.py")


def start_parent(bench: Bench, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, PARENT, *arguments],
        env=bench.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=marked.heed_signals,  # noqa: PLW1509 - these tests have no threads
    )


def await_hang(parent: subprocess.Popen[str]) -> None:
    """Come back when the case has started all its descendants, and hangs."""
    assert parent.stdout is not None
    line = ""
    while line != "warm-up\n":
        line = parent.stdout.readline()
        assert line, "the parent ended before its case hung"


@pytest.fixture(params=["case", "preload"])
def hanging(
    request: pytest.FixtureRequest, new_bench: Callable[..., Bench], tmp_path: Path
) -> Iterator[tuple[Bench, subprocess.Popen[str]]]:
    """A parent that waits for a case with all its descendants, or for a server that is starting."""
    bench, reached = new_bench(), tmp_path / "reached"
    bench.environ["LLMBENCH_TEST_REACHED"] = str(reached)
    with start_parent(bench, request.param) as parent:
        if request.param == "case":
            await_hang(parent)
        while request.param == "preload" and not reached.exists():
            time.sleep(0.02)
        yield bench, parent


def test_a_killed_parent_leaves_nothing_running(hanging: tuple[Bench, subprocess.Popen[str]]) -> None:
    bench, parent = hanging
    parent.kill()

    bench.await_nothing_running()


def test_ctrl_c_ends_everything_and_passes_on(hanging: tuple[Bench, subprocess.Popen[str]]) -> None:
    bench, parent = hanging
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=20)

    assert errors.rstrip().endswith("KeyboardInterrupt")
    # This parent never closes its executor: the server sees that it is gone and follows.
    bench.await_nothing_running()


def test_a_parent_and_a_server_killed_at_once_take_the_case_along(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench()
    with start_parent(bench, "alone") as parent:
        await_hang(parent)
        running = bench.running()
        (server,) = (pid for pid, its_parent in running.items() if running.get(its_parent) == parent.pid)
        os.kill(parent.pid, signal.SIGSTOP)
        os.kill(server, signal.SIGKILL)
        parent.kill()

    bench.await_nothing_running()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this Python cannot watch a process by descriptor")
def test_a_fork_of_a_killed_parent_keeps_nothing_running(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench()
    with start_parent(bench, "fork") as parent:
        assert parent.stdout is not None
        fork = int(parent.stdout.readline())
        await_hang(parent)
        parent.kill()
    try:
        bench.await_nothing_running(but=fork)
    finally:
        os.kill(fork, signal.SIGKILL)
        bench.await_nothing_running()
