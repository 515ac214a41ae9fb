"""When the pytest process goes, everything it started goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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
    )


def await_line(parent: subprocess.Popen[str], expected: str) -> None:
    assert parent.stdout is not None
    line = ""
    while line != f"{expected}\n":
        line = parent.stdout.readline()
        assert line, f"the parent ended before it said {expected!r}"


@pytest.fixture(params=["warm-up", "preload"])
def phase(request: pytest.FixtureRequest) -> str:
    """In which the parent is killed: with a case and all its descendants running, or a server starting."""
    return str(request.param)


def test_a_killed_parent_leaves_nothing_running(new_bench: Callable[..., Bench], phase: str) -> None:
    bench = new_bench()
    with start_parent(bench, phase) as parent:
        await_line(parent, phase)
        parent.kill()

    bench.await_nothing_running()


def test_ctrl_c_ends_everything_and_passes_on(new_bench: Callable[..., Bench], phase: str) -> None:
    bench = new_bench()
    with start_parent(bench, phase) as parent:
        await_line(parent, phase)
        parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate(timeout=20)

    assert errors.rstrip().endswith("KeyboardInterrupt")
    bench.await_nothing_running()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this Python cannot watch a process by descriptor")
def test_a_fork_of_a_killed_parent_keeps_nothing_running(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench()
    with start_parent(bench, "fork") as parent:
        assert parent.stdout is not None
        fork = int(parent.stdout.readline())
        await_line(parent, "warm-up")
        parent.kill()
    try:
        bench.await_nothing_running(but=fork)
    finally:
        os.kill(fork, signal.SIGKILL)
        bench.await_nothing_running()
