"""Runs of several cases at once: measured ahead of their tests, told in the tests' own order."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from pytest_llmbench.store.results import latest, read_results

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

ROWS = """
import pytest
from pytest_llmbench import Case

CASES = [Case.custom("m:f", name=name) for name in {names!r}]

@pytest.mark.parametrize("case", CASES, ids=[case.model.split()[0] for case in CASES])
def test_speed(llmbench, case):
    llmbench(case)
    {after}
"""
SMOKE = ("--llmbench-scale=smoke", "--llmbench-missing=record")


@pytest.fixture
def many(bench: Bench, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("LLMBENCH_TEST_SLEPT", str(bench.folder / "slept.txt"))
    monkeypatch.setenv("LLMBENCH_TEST_JOBS", "3")
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("leases")))
    return bench


def rows(bench: Bench, *names: str, after: str = "") -> None:
    bench.pytester.makepyfile(test_rows=ROWS.format(names=names, after=after))


def order(bench: Bench) -> list[str]:
    """What was measured, in the order in which it ended."""
    path = bench.folder / "slept.txt"
    return [line.split()[-2] for line in path.read_text().splitlines()] if path.exists() else []


def spans(bench: Bench) -> tuple[list[float], list[float]]:
    """When each case began to sleep, and when it ended."""
    lines = [line.split() for line in (bench.folder / "slept.txt").read_text().splitlines()]
    return [float(line[-4]) for line in lines], [float(line[-3]) for line in lines]


def test_rows_are_measured_at_once_and_told_in_their_order(many: Bench) -> None:
    rows(many, "a 1.5", "b 1.5", "c 1.5", "d 0.1")

    run = many.run_in_fork(*SMOKE, plugin="sleeping")

    run.assert_outcomes(passed=4)
    begun, ended = spans(many)
    assert sorted(begun)[1] < min(ended)  # one began before any had ended
    assert [result.row for result in latest(many.results())] == ["a", "b", "c", "d"]
    assert sorted(order(many)) == ["a", "b", "c", "d"]


def test_a_result_has_the_seconds_of_its_own_case(many: Bench) -> None:
    rows(many, "short 0.1", "a 1.2", "b 1.2", "c 1.2")

    many.run_in_fork(*SMOKE, plugin="sleeping")

    spent = {result.row: result.seconds or 0.0 for result in latest(many.results())}
    begun, ended = spans(many)
    assert min(spent.values()) > 0.1
    assert min(spent[name] for name in "abc") > 1.2
    assert spent["short"] < ended[order(many).index("short")] - min(begun)  # without what it waited for its turn


def test_a_run_that_stops_early_leaves_nothing_running(many: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_TEST_JOBS", "4")
    rows(many, "a 0.1", "b 3000", "c 3000", "d 3000", after="assert False")  # nobody waits for them

    run = many.run_in_fork(*SMOKE, "-x", plugin="sleeping")

    run.assert_outcomes(failed=1)
    assert order(many) == ["a"]


def test_rows_of_a_resumed_run_are_not_measured_ahead(many: Bench) -> None:
    rows(many, "a 0.1", "b 0.1")
    many.run_in_fork(*SMOKE, "--llmbench-results=r.jsonl", "test_rows.py::test_speed[a]", plugin="sleeping")

    many.run_in_fork(*SMOKE, "--llmbench-resume=r.jsonl", plugin="sleeping").assert_outcomes(passed=2)

    assert sorted(order(many)) == ["a", "b"]


def test_what_was_measured_ahead_of_a_run_that_stopped_early_is_resumed(many: Bench) -> None:
    rows(many, "a 3", "b 0.1", "c 0.1", after="assert False")

    run = many.run_in_fork(*SMOKE, "-x", "--llmbench-results=r.jsonl", plugin="sleeping")

    run.stdout.fnmatch_lines(
        ["llmbench: 2 rows were measured whose test the run ended before; --llmbench-resume=r.jsonl takes them *"]
    )
    kept = {(result.row, result.decision, result.recorded) for result in read_results(many.folder / "r.jsonl")}
    assert kept == {("a", "pass", True), ("b", "skip", False), ("c", "skip", False)}
    rows(many, "a 3", "b 0.1", "c 0.1")
    many.run_in_fork(*SMOKE, "--llmbench-resume=r.jsonl", plugin="sleeping").assert_outcomes(passed=3)
    assert sorted(order(many)) == ["a", "b", "c"]


def test_a_row_that_was_measured_ahead_and_resumed_is_confirmed_as_any_other(bench: Bench) -> None:
    rows(bench, "a", "b")
    bench.record()
    bench.answer("b", metrics={"device_busy_seconds_per_sample": 0.275, "samples_per_second": 0.5 / 0.275})
    rows(bench, "a", "b", after="assert False")
    bench.run("-x", "--llmbench-results=r.jsonl", plugin="ahead").assert_outcomes(failed=1)
    assert bench.asked() == ["b", "a"]
    rows(bench, "a", "b")

    bench.run("--llmbench-resume=r.jsonl", plugin="ahead").assert_outcomes(passed=1, failed=1)

    assert bench.asked() == ["b", "a", *["b"] * 4]
    (result,) = (one for one in latest(read_results(bench.folder / "r.jsonl")) if one.row == "b")
    assert (result.verdict.status, len(result.measurement.processes)) == ("regressed", 5)
    assert result.verdict.reason.endswith("; with 4 more processes")


def test_what_was_measured_ahead_is_on_disk_before_its_test_has_run(many: Bench) -> None:
    rows(many, "a 3", "b 0.1", after="import os; os.kill(os.getpid(), 9)")

    run = many.run_in_fork(*SMOKE, "--llmbench-results=r.jsonl", plugin="sleeping")

    assert run.ret == -signal.SIGKILL
    assert {result.row for result in read_results(many.folder / "r.jsonl")} == {"a", "b"}


def test_a_row_that_is_marked_to_be_skipped_is_not_measured_ahead(many: Bench) -> None:
    rows(many, "a 0.1")
    many.pytester.makepyfile(
        test_skipped="""
        import pytest
        from pytest_llmbench import Case

        @pytest.mark.skip
        @pytest.mark.parametrize("case", [Case.custom("m:f", name="skipped 0.1")])
        def test_skipped(llmbench, case):
            llmbench(case)
        """
    )

    many.run_in_fork(*SMOKE, plugin="sleeping").assert_outcomes(passed=1, skipped=1)

    assert order(many) == ["a"]


@pytest.mark.parametrize("given", ["0", "many", "-1", "1.5"])
def test_jobs_are_a_number_or_auto(many: Bench, given: str) -> None:
    run = many.run(f"--llmbench-jobs={given}", plugin="no:nothing")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"*--llmbench-jobs={given}: give a number of cases above 0, or 'auto'"])
