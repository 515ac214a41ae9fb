"""One rule of judgement: whoever holds a pair of measurements against each other says the same of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_llmbench.judge.compare import judge
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.results import Result
from pytest_llmbench.trials.comparison import compare_files

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench


def busy(seconds: float, **metrics: Any) -> dict[str, Any]:
    return {"metrics": {"device_busy_seconds_per_sample": seconds, "samples_per_second": 0.5 / seconds, **metrics}}


ANSWERS = {
    "same": ([busy(0.25)], "unchanged", 1),
    "count": ([busy(0.25, kernels_per_sample=120.0)], "regressed", 1),
    "memory": ([busy(0.25, peak_reserved_bytes=[5 * 2**30])], "regressed", 1),
    "better": ([busy(0.2)], "improved", 1),
    "confirmed": ([busy(0.275)], "regressed", 5),
    "chance": ([busy(0.27), busy(0.25)], "unchanged", 5),
    "open": ([busy(0.2525)], "undecided", 9),
}
"""What is measured of a row after the change; its status, and after how many processes."""


@pytest.fixture
def moved(bench: Bench) -> Bench:
    """Rows that were measured before a change and recorded, and move with it."""
    bench.rows(*ANSWERS)
    bench.run("--llmbench-missing=record", "--llmbench-results=before.jsonl").assert_outcomes(passed=len(ANSWERS))
    for row, (answers, _, _) in ANSWERS.items():
        bench.answers(row, *answers)
    return bench


def measured(bench: Bench, *options: str, file: str) -> dict[str, Result]:
    """The results of a run after the change, by row."""
    bench.forget()
    bench.run(*options, f"--llmbench-results={file}")
    return {result.row: result for result in bench.results(bench.folder / file)}


def said(result: Result) -> RowVerdict:
    """A verdict without what was done to come to it."""
    return msgspec.structs.replace(result.verdict, reason=result.verdict.reason.partition("; with ")[0])


def test_a_row_alone_has_the_verdict_that_it_has_beside_others(moved: Bench) -> None:
    beside = measured(moved, file="beside.jsonl")

    alone = {row: measured(moved, "-k", f"{row}]", file=f"{row}.jsonl")[row] for row in ANSWERS}

    found = {row: (one.verdict.status, len(one.measurement.processes)) for row, one in alone.items()}
    assert found == {row: (status, count) for row, (_, status, count) in ANSWERS.items()}
    assert {row: one.verdict for row, one in beside.items()} == {row: one.verdict for row, one in alone.items()}


def test_two_result_files_are_compared_as_the_run_judged_them(moved: Bench) -> None:
    results = measured(moved, file="after.jsonl")

    comparison = compare_files(moved.folder / "before.jsonl", moved.folder / "after.jsonl", {}, pytest.fail)

    assert {row.row: row.verdict for row in comparison.rows} == {row: said(one) for row, one in results.items()}


def test_a_replay_judges_a_measurement_as_the_run_did(moved: Bench) -> None:
    results = measured(moved, file="after.jsonl")
    store = BaselineStore(moved.folder / "baselines")

    for row, one in results.items():
        assert judge(one.measurement, store.find(one.measurement, "speed", row)) == said(one)


def test_a_resumed_run_judges_as_before_and_measures_nothing(moved: Bench) -> None:
    results = measured(moved, file="after.jsonl")

    resumed = measured(moved, "--llmbench-resume=after.jsonl", file="again.jsonl")

    assert moved.asked() == []
    as_before = {row: msgspec.structs.replace(one, seconds=None) for row, one in results.items()}
    assert resumed == as_before
