"""Many rows in one run: nothing piles up in the process of pytest, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import surroundings
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.results import Result, read_results

if TYPE_CHECKING:
    from tests.faults.conftest import Executor, Suite

KIB, MIB = 2**10, 2**20
WATCH = """
import os
from pathlib import Path

def pytest_llmbench_result(result, config):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    with Path("watched.txt").open("a") as stream:
        stream.write(f"{pages * os.sysconf('SC_PAGE_SIZE')} {open_files}\\n")
"""


def test_a_run_of_150_rows_holds_on_to_its_results_and_to_nothing_else(suite: Suite) -> None:
    suite.rows(*(f"ok-{number}" for number in range(150)))
    (suite.folder / "conftest.py").write_text(WATCH)

    assert suite.run("--llmbench-missing=record").status == 0

    watched = [tuple(map(int, line.split())) for line in (suite.folder / "watched.txt").read_text().splitlines()]
    (memory_then, files_then), (memory_now, files_now) = watched[49], watched[149]
    assert files_now == files_then
    assert (memory_now - memory_then) / 100 < 40 * KIB
    assert len(suite.recorded()) == 150


def test_an_executor_keeps_nothing_of_the_cases_that_are_over(executor: Executor) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    executor.run("ok")
    before = open_files()
    for number in range(30):
        executor.run(f"ok-{number}")
        executor.run("abort")
        assert executor.survivors() == []

    assert open_files() == before
    assert executor.announced == []


ENVIRONMENT = surroundings.environment(
    device="cpu", python="3", packages={f"package-{number}": "1.2.3" for number in range(15)}
)


def a_measurement(number: int) -> Measurement:
    """As large as those of a GPU."""
    return Measurement(
        case=Case.custom("steps:build", name=f"row-{number}"),
        workload=Workload(),
        environment=ENVIRONMENT,
        processes=(Process(outcome="ok", metrics=dict.fromkeys(METRICS, 123.456)),),
        measured_at="2026-11-24T10:00:00+00:00",
    )


def test_ten_thousand_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    verdict = judge(a_measurement(0), Reference(measurement=a_measurement(0)))
    assert len(verdict.metrics) == len(METRICS)
    with path.open("wb") as stream:
        for number in range(10_000):
            result = Result(
                nodeid=f"test_speed.py::test_speed[row-{number}]",
                table="speed",
                row=f"row-{number}",
                measurement=a_measurement(number),
                verdict=verdict,
                decision="pass",
                message="",
                seconds=1.0,
            )
            stream.write(msgspec.json.encode(result) + b"\n")

    results = read_results(path)
    assert [result.row for result in results] == [f"row-{number}" for number in range(10_000)]
    assert results[-1].measurement == a_measurement(9_999)
    assert results[-1].verdict == verdict
