"""How many processes a row gets, and what their evidence does to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

OTHERS = {"evidence": {"foreign_processes": [1]}}
HOT = {"evidence": {"hardware_slowdown_seconds": [0.2]}}


def busy(seconds: float) -> dict[str, Any]:
    return {"metrics": {"device_busy_seconds_per_sample": seconds, "samples_per_second": 0.5 / seconds}}


def test_a_case_is_measured_by_as_many_processes_as_asked_for(bench: Bench) -> None:
    bench.rows("a")
    bench.answers("a", busy(0.25), busy(0.251), busy(0.252))

    bench.run("--llmbench-update=all", "--llmbench-processes=3")

    seconds = [p.metrics["device_busy_seconds_per_sample"] for p in bench.baseline().rows["a"].processes]
    assert seconds == [0.25, 0.251, 0.252]


def test_what_the_peak_is_made_up_of_is_looked_at_in_one_process(bench: Bench) -> None:
    bench.rows("a")

    bench.run("--llmbench-update=all", "--llmbench-processes=3")

    assert [len(process.peak_allocations) for process in bench.baseline().rows["a"].processes] == [1, 0, 0]


def test_the_first_process_that_ends_badly_is_the_last(bench: Bench) -> None:
    bench.rows("a")
    bench.answers("a", {}, {"outcome": "crashed"}, {})

    bench.run("--llmbench-processes=3")

    assert bench.asked() == ["a", "a"]
    assert [result.measurement.outcome for result in bench.results()] == ["crashed"]


def test_a_row_that_is_as_it_was_is_measured_once(bench: Bench) -> None:
    bench.rows("a")
    bench.record()

    run = bench.run("--llmbench-processes=auto")

    run.assert_outcomes(passed=1)
    assert bench.asked() == ["a"]


def test_a_row_that_looks_worse_by_chance_is_measured_again_and_passes(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    bench.answers("a", busy(0.27), busy(0.25))

    run = bench.run("--llmbench-processes=auto")

    run.assert_outcomes(passed=1)
    (result,) = bench.results()
    assert result.verdict.status == "unchanged"
    assert result.verdict.reason.endswith("; with 4 more processes")
    assert len(result.measurement.processes) == 5


def test_a_regression_fails_once_more_processes_confirm_it_without_any_option(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    bench.answer("a", **busy(0.275))

    run = bench.run()

    run.assert_outcomes(failed=1)
    assert bench.asked() == ["a"] * 5
    (result,) = bench.results()
    assert result.verdict.status == "regressed"


def test_a_count_that_moved_needs_no_confirmation(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    bench.answer("a", metrics={"kernels_per_sample": 120.0})

    run = bench.run("--llmbench-processes=auto")

    run.assert_outcomes(failed=1)
    assert bench.asked() == ["a"]


def test_a_row_that_noise_leaves_open_passes_and_says_what_would_settle_it(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    bench.answer("a", **busy(0.2525))

    bench.run("--llmbench-processes=1").assert_outcomes(passed=1)

    (result,) = bench.results()
    assert result.verdict.status == "undecided"
    assert "speed[a]: device_busy_seconds_per_sample 0.25 -> 0.2525 s, +1.0 %" in result.message
    assert "would" in result.message


def test_a_spent_budget_leaves_a_suspect_open(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.record()
    bench.answer("a", **busy(0.275), seconds=0.05)
    bench.answer("b", **busy(0.275))

    run = bench.run("--llmbench-processes=auto", "--llmbench-budget=0.001")

    run.assert_outcomes(failed=1, passed=1)
    first, second = bench.results()
    assert (first.row, first.verdict.status) == ("a", "regressed")
    assert (second.row, second.verdict.status) == ("b", "undecided")
    assert "--llmbench-budget is used up" in second.verdict.reason


@pytest.mark.parametrize("evidence", [OTHERS, HOT], ids=["others", "slowed down"])
def test_an_invalid_process_is_measured_again_and_does_not_count(bench: Bench, evidence: dict[str, Any]) -> None:
    bench.rows("a")
    bench.record()
    bench.answers("a", {**evidence, **busy(0.5)}, {})

    run = bench.run()

    run.assert_outcomes(passed=1)
    (result,) = bench.results()
    assert len(result.measurement.processes) == 1
    run.stdout.fnmatch_lines(["*try 1 of 3 does not count*"])


def test_a_row_that_stays_invalid_fails_and_is_not_called_regressed(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    bench.answer("a", **OTHERS, **busy(0.5))

    run = bench.run("--llmbench-update=all")

    run.assert_outcomes(failed=1)
    assert bench.asked() == ["a"] * 3
    (result,) = bench.results()
    assert (result.measurement.outcome, result.verdict.status) == ("invalid", "unmeasured")
    assert bench.baseline().rows["a"].processes[0].metrics["device_busy_seconds_per_sample"] == 0.25


def test_a_gpu_that_is_always_shared_can_be_measured(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    bench.answer("a", **OTHERS)

    bench.run("--llmbench-shared-gpu").assert_outcomes(passed=1)


def test_an_html_report_is_written_where_it_is_asked_for(bench: Bench) -> None:
    pytest.importorskip("jinja2")
    bench.rows("a")
    bench.record()

    run = bench.run("--llmbench-html", "out/report.html")

    run.stdout.fnmatch_lines(["*report out/report.html"])
    assert "<html" in (bench.folder / "out" / "report.html").read_text()
