"""A wall clock that runs backwards, as after a correction of the time, moves no deadline, figure or file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmbench.store.results import latest

if TYPE_CHECKING:
    from tests.faults.conftest import Suite

BACKWARDS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

/* Each second that passes takes the wall clock back by an hour. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (clock == CLOCK_REALTIME && status == 0) {
        struct timespec passed;
        real(CLOCK_MONOTONIC, &passed);
        now->tv_sec = 4000000000 - 3600 * (passed.tv_sec % 1000000) - passed.tv_nsec / 277778;
    }
    return status;
}
"""


@pytest.fixture
def backwards(suite: Suite, compile_library: Callable[..., Path]) -> Suite:
    """Pytest and all that it starts see a clock that runs backwards."""
    suite.environ["LD_PRELOAD"] = str(compile_library(BACKWARDS, "backwards.so"))
    return suite


def test_the_clock_of_these_tests_runs_backwards(backwards: Suite) -> None:
    backwards.test(
        "import time\n\ndef test_own():\n    then = time.time()\n    time.sleep(0.1)\n    assert time.time() < then"
    )

    assert backwards.run("-k", "own").status == 0


def test_durations_and_verdicts_do_not_follow_the_wall_clock(backwards: Suite) -> None:
    backwards.rows("ok-1", "slow-2")
    assert backwards.run("--llmbench-missing=record").status == 0

    assert backwards.run().status == 0

    results = latest(backwards.results())
    fast, slow = (result.seconds or 0.0 for result in results)
    assert fast > 0
    assert slow > 1
    assert {result.verdict.status for result in results} == {"unchanged"}


def test_a_deadline_does_not_follow_the_wall_clock(backwards: Suite) -> None:
    backwards.rows("slow-1", "hang", "ok-2")
    backwards.environ["LLMBENCH_TEST_TIMEOUT"] = "3"

    backwards.run("--llmbench-missing=record")

    assert [result.measurement.outcome for result in backwards.results()] == ["ok", "timeout", "ok"]
    assert (backwards.results()[1].seconds or 0.0) >= 3


def test_a_run_is_resumed_from_a_file_of_the_future(backwards: Suite) -> None:
    backwards.rows("ok-1", "abort", "ok-2")
    backwards.run("--llmbench-missing=record")

    assert backwards.resume("--llmbench-missing=record").status == 0

    measured = [result.row for result in backwards.results() if result.seconds]
    assert measured == ["ok-1", "abort", "ok-2", "abort"]
