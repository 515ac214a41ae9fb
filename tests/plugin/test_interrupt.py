"""Ctrl-C in the middle of a row: what is measured stays, nothing keeps running."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import pytest

import marked
from pytest_llmbench.store.results import read_results

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Stands in the environment of everything that is started during the test."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(marked.MARK, value)
    return value


def test_ctrl_c_keeps_the_results_and_leaves_no_process(bench: Bench, mark: str) -> None:
    bench.rows("a", "60s", "b")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_llmbench.plugin", "-p", "processes"]
    command += ["--llmbench", "--llmbench-missing=record", "--llmbench-results=r.jsonl"]
    path = bench.folder / "r.jsonl"
    with subprocess.Popen(
        command,
        cwd=bench.folder,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=marked.heed_signals,  # noqa: PLW1509 - these tests have no threads
    ) as run:
        await_that(lambda: path.exists() and path.read_bytes().endswith(b"\n"))
        await_that(lambda: len(marked.running(mark)) >= 3)  # pytest, its server, the process of the row that hangs
        run.send_signal(signal.SIGINT)
        shown, _ = run.communicate(timeout=20)

    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert [result.row for result in read_results(path)] == ["a"]
    assert "KeyboardInterrupt" in shown
    assert "llmbench: 1 recorded" in shown
    await_that(lambda: not marked.running(mark))


def await_that(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
