"""What is said while rows run, on a clock that the test sets."""

from __future__ import annotations

import time

import msgspec
import pytest

from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.reports.progress import Progress
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import failed
from pytest_llmbench.schema.protocol import Phase
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.results import Result


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def shown() -> list[str]:
    return []


@pytest.fixture
def progress(clock: Clock, shown: list[str]) -> Progress:
    return Progress(show_status=lambda text: shown.append(f"~{text}"), write_line=shown.append)


def result(row: str, seconds: float) -> Result:
    return Result(
        nodeid=row,
        table="speed",
        row=row,
        measurement=failed(Case.custom("m:f", name=row), Workload(), "oom", "r", measured_at="now"),
        verdict=RowVerdict(status="regressed", reason="r"),
        decision="fail",
        message="",
        seconds=seconds,
    )


def test_a_phase_is_told_with_row_speed_and_time(progress: Progress, clock: Clock, shown: list[str]) -> None:
    progress.total = 3
    progress.start("speed[a]")
    clock.now += 12
    progress.phase(Phase("build"))
    clock.now += 113
    progress.phase(Phase("rounds", 3.14159))
    progress.end()

    assert shown == [
        "~[1/3] speed[a]: build, 12 s",
        "~[1/3] speed[a]: rounds 3.14 samples/s, 2 min 05 s",
        "~",
    ]


def test_a_row_is_told_with_outcome_verdict_and_what_is_left(progress: Progress, shown: list[str]) -> None:
    progress.total = 3
    progress.finish([result("a", 10.0)])
    progress.finish([result("b", 20.0)])
    progress.finish([result("c", 30.0)])

    assert shown == [
        "[1/3] speed[a]: oom, regressed, 10 s, about 20 s left",
        "[2/3] speed[b]: oom, regressed, 20 s, about 15 s left",
        "[3/3] speed[c]: oom, regressed, 30 s",
    ]


def test_what_is_left_leaves_out_the_imports_that_only_the_first_row_waits_for(
    progress: Progress, clock: Clock, shown: list[str]
) -> None:
    progress.total = 3
    progress.start("speed[a]")
    progress.phase(Phase("preload"))
    clock.now += 12
    progress.phase(Phase("preload"))
    clock.now += 8
    progress.phase(Phase("build"))
    clock.now += 2
    progress.end()
    progress.finish([result("a", 22.0)])
    progress.finish([result("b", 2.0)])

    assert [line for line in shown if "~" not in line] == [
        "[1/3] speed[a]: oom, regressed, 22 s, about 4 s left",
        "[2/3] speed[b]: oom, regressed, 2.00 s, about 2 s left",
    ]


def test_imports_that_end_with_the_row_are_left_out_too(progress: Progress, clock: Clock, shown: list[str]) -> None:
    progress.total = 3
    progress.start("speed[a]")
    progress.phase(Phase("preload"))
    clock.now += 20
    progress.end()
    progress.finish([result("a", 21.0)])

    assert shown[-1] == "[1/3] speed[a]: oom, regressed, 21 s, about 2 s left"


def test_time_goes_on_while_a_phase_does(progress: Progress, clock: Clock, shown: list[str]) -> None:
    progress.start("speed[a]")
    for _ in range(3):
        progress.phase(Phase("preload"))
        clock.now += 1

    assert shown == [f"~[1] speed[a]: preload, {seconds}.00 s" for seconds in range(3)]


def test_what_is_left_is_told_in_the_next_phase(progress: Progress, shown: list[str]) -> None:
    progress.total = 2
    progress.finish([result("a", 10.0)])
    progress.start("speed[b]")
    progress.phase(Phase("build"))

    assert shown[-1] == "~[2/2] speed[b]: build, 0.00 s, about 10 s left"


def test_a_row_that_could_not_be_measured_is_counted_in_silence(progress: Progress, shown: list[str]) -> None:
    progress.total = 2
    progress.finish([])
    progress.finish([result("b", 10.0)])

    assert shown == ["[2/2] speed[b]: oom, regressed, 10 s"]


def test_rows_that_took_no_time_say_nothing_of_what_is_left(progress: Progress, shown: list[str]) -> None:
    progress.total = 3
    progress.finish([result("a", 0.0)])
    progress.finish([result("b", 10.0)])

    assert shown[0] == "[1/3] speed[a]: oom, regressed"
    assert shown[1].endswith("about 10 s left")


def test_without_a_total_rows_are_counted(progress: Progress, shown: list[str]) -> None:
    progress.finish([result("a", 10.0)])

    assert shown == ["[1] speed[a]: oom, regressed, 10 s"]


def test_a_recorded_row_says_so(progress: Progress, shown: list[str]) -> None:
    progress.finish([msgspec.structs.replace(result("a", 1.0), recorded=True)])

    assert shown == ["[1] speed[a]: oom, recorded, 1.00 s"]


def test_both_results_of_one_test_are_told_under_its_number(progress: Progress, shown: list[str]) -> None:
    progress.finish([result("a", 1.0), result("b", 1.0)])

    assert [line.partition(":")[0] for line in shown] == ["[1] speed[a]", "[1] speed[b]"]
