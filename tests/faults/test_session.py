"""However a run of pytest ends, its processes end with it, its results are on disk, and it can be resumed."""

from __future__ import annotations

import os
import signal
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from pytest_llmbench.store.results import latest

if TYPE_CHECKING:
    from nursery import Ended
    from tests.faults.conftest import Suite

RECORD = "--llmbench-missing=record"
TWO = ("-p", "xdist", "-n", "2")
needs_xdist = pytest.mark.skipif(find_spec("xdist") is None, reason="pytest-xdist is not installed")


def assert_resumes(suite: Suite, *done: str, redone: tuple[str, ...] = ()) -> None:
    """
    Resumed, a run measures what *done* does not have, and what it *redone*, and then all is there.

    Rows of the suite are `ok-1`, `hang` or whatever ended the run, `ok-2`.
    """
    before = {result.row: result.seconds for result in suite.results()}
    assert set(before) >= set(done)

    ended = suite.resume(RECORD)

    assert ended.status == 0, ended.text
    after = suite.results()
    measured = [result.row for result in after[len(before) :] if result.seconds]
    assert not set(measured) & (set(done) - set(redone))
    assert len(latest(after)) == 3
    assert all(result.measurement.outcome == "ok" for result in latest(after))
    assert len(suite.recorded()) == 3


def interrupted(suite: Suite, *numbers: int, after: float = 0.1) -> Ended:
    """A run to which signals are sent, one after the other, while it measures its second row."""
    suite.rows("ok-1", "hang", "ok-2")
    run = suite.start(RECORD)
    run.await_rows("ok-1")
    run.await_measuring("hang")
    for number in numbers:
        run.send(number)
        time.sleep(after)
    return run.end()


def test_ctrl_c_twice_leaves_no_process_and_keeps_what_was_measured(suite: Suite) -> None:
    ended = interrupted(suite, signal.SIGINT, signal.SIGINT)

    assert ended.status != 0
    assert [result.row for result in suite.results()] == ["ok-1"]
    assert_resumes(suite, "ok-1")


def test_ctrl_c_held_down_leaves_no_process_and_keeps_what_was_measured(suite: Suite) -> None:
    ended = interrupted(suite, *[signal.SIGINT] * 40, after=0.01)

    assert ended.status != 0
    assert [result.row for result in suite.results()] == ["ok-1"]
    assert_resumes(suite, "ok-1")


def test_sigterm_ends_a_run_as_ctrl_c_does(suite: Suite) -> None:
    ended = interrupted(suite, signal.SIGTERM)

    assert ended.status == pytest.ExitCode.INTERRUPTED
    assert "llmbench: 1 recorded" in ended.text
    assert_resumes(suite, "ok-1")


def test_sigkill_leaves_no_process_and_keeps_what_was_measured(suite: Suite) -> None:
    ended = interrupted(suite, signal.SIGKILL)

    assert ended.status == -signal.SIGKILL
    assert_resumes(suite, "ok-1")


def test_sighup_of_a_terminal_that_is_gone_leaves_no_process(suite: Suite) -> None:
    ended = interrupted(suite, signal.SIGHUP)

    assert ended.status == -signal.SIGHUP
    assert_resumes(suite, "ok-1")


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_a_run_that_stops_at_a_failure_can_be_resumed(suite: Suite, option: str) -> None:
    suite.rows("ok-1", "abort", "ok-2")

    ended = suite.run(RECORD, option)

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert [(result.row, result.measurement.outcome) for result in suite.results()] == [
        ("ok-1", "ok"),
        ("abort", "crashed"),
    ]
    assert_resumes(suite, "ok-1")


def test_a_server_that_dies_costs_its_row_and_no_other(suite: Suite) -> None:
    suite.rows("ok-1", "kills_server", "ok-2")

    ended = suite.run(RECORD)

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert [result.measurement.outcome for result in suite.results()] == ["ok", "crashed", "ok"]
    assert "ended with its server: the server was killed by SIGKILL" in ended.text
    assert_resumes(suite, "ok-1", "ok-2")


def test_a_deadline_costs_its_row_and_no_other(suite: Suite) -> None:
    suite.rows("ok-1", "hang_in_build", "ok-2")
    suite.environ["LLMBENCH_TEST_TIMEOUT"] = "3"

    ended = suite.run(RECORD)

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert [result.measurement.outcome for result in suite.results()] == ["ok", "timeout", "ok"]
    assert "in phase 'build'" in ended.text
    assert_resumes(suite, "ok-1", "ok-2")


@needs_xdist
def test_a_process_of_xdist_that_is_killed_costs_the_row_it_was_at(suite: Suite) -> None:
    suite.rows("ok-1", "kills_xdist", "ok-2")

    ended = suite.run(RECORD, *TWO)

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert "crashed while running 'test_speed.py::test_speed[kills_xdist]'" in ended.text
    assert sorted(result.row for result in suite.results()) == ["ok-1", "ok-2"]
    assert_resumes(suite, "ok-1", "ok-2")


@needs_xdist
def test_ctrl_c_ends_the_processes_of_xdist(suite: Suite) -> None:
    suite.rows("ok-1", "hang", "ok-2")
    run = suite.start(RECORD, *TWO)
    run.await_rows("ok-1")
    run.await_measuring("hang")
    run.send(signal.SIGINT)

    assert run.end().status == pytest.ExitCode.INTERRUPTED
    assert_resumes(suite, "ok-1")


@needs_xdist
def test_a_controller_of_xdist_that_is_killed_leaves_no_process(suite: Suite) -> None:
    suite.rows("ok-1", "hang", "ok-2")
    run = suite.start(RECORD, *TWO)
    run.await_rows("ok-1")
    run.await_measuring("hang")
    run.send(signal.SIGKILL)

    assert run.end().status == -signal.SIGKILL
    assert_resumes(suite, "ok-1")


def test_a_scheduler_that_ends_every_process_at_once_loses_nothing(suite: Suite) -> None:
    suite.rows("ok-1", "hang", "ok-2")
    run = suite.start(RECORD)
    run.await_rows("ok-1")
    run.await_measuring("hang")
    for pid in suite.running():
        os.kill(pid, signal.SIGTERM)
    run.end()

    assert_resumes(suite, "ok-1")
