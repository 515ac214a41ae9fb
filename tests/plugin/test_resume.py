"""Continuing a run that was killed: what it measured is kept, the rest is measured."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from pytest_llmbench.store.results import latest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

RECORD = "--llmbench-missing=record"


def test_a_killed_run_is_continued(bench: Bench) -> None:
    bench.rows("a", "b", "60s", "c")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_llmbench.plugin", "-p", "processes"]
    command += ["--llmbench", RECORD, "--llmbench-results=r.jsonl"]
    with subprocess.Popen(command, cwd=bench.folder, stdout=subprocess.DEVNULL) as run:
        await_lines(bench.folder / "r.jsonl", 2)
        run.send_signal(signal.SIGKILL)
    with (bench.folder / "r.jsonl").open("ab") as stream:
        stream.write(b'{"format":1,"nodeid":"test_rows.py::test_speed[60s]","tab')

    bench.run("--llmbench-resume=r.jsonl", RECORD).assert_outcomes(passed=4)

    assert bench.asked() == ["60s", "c"]
    results = bench.results(bench.folder / "r.jsonl")
    assert [result.row for result in results if result.seconds] == ["a", "b", "60s", "c"]
    assert [result.row for result in latest(results)] == ["a", "b", "60s", "c"]


def test_resuming_a_complete_run_measures_and_writes_nothing(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.run(RECORD)
    bench.run("--llmbench-results=r.jsonl")
    before = (bench.folder / "r.jsonl").read_bytes()
    asked = bench.asked()

    run = bench.run("--llmbench-resume=r.jsonl")

    run.assert_outcomes(passed=2)
    run.stdout.fnmatch_lines(["llmbench: resumes r.jsonl, which has 2 results"])
    assert bench.asked() == asked
    assert (bench.folder / "r.jsonl").read_bytes() == before


def test_rows_that_are_resumed_are_judged_again_and_the_file_says_so(bench: Bench) -> None:
    bench.rows("a")
    assert bench.run("--llmbench-results=r.jsonl").ret == 1

    assert bench.run("--llmbench-resume=r.jsonl", "--llmbench-update=missing").ret == 0

    assert bench.asked() == ["a"]
    assert [result.told for result in bench.results(bench.folder / "r.jsonl")] == ["no baseline", "recorded"]


def test_a_new_result_file_has_the_resumed_rows_too(bench: Bench) -> None:
    bench.rows("a")
    bench.run("--llmbench-results=old.jsonl")

    bench.run("--llmbench-resume=old.jsonl", "--llmbench-results=new.jsonl")

    assert bench.asked() == ["a"]
    assert [result.row for result in bench.results(bench.folder / "new.jsonl")] == ["a"]
    assert len(bench.results(bench.folder / "old.jsonl")) == 1


@pytest.mark.parametrize(("outcome", "again"), [("ok", False), ("oom", False), ("crashed", True), ("timeout", True)])
def test_what_came_to_no_end_is_measured_again(bench: Bench, outcome: str, again: bool) -> None:
    bench.rows("a")
    bench.answer("a", outcome=outcome)
    bench.run("--llmbench-results=r.jsonl")

    bench.run("--llmbench-resume=r.jsonl")

    assert bench.asked() == ["a", "a"] if again else ["a"]


@pytest.mark.parametrize("option", ["--llmbench-samples=8", "--llmbench-scale=smoke", "--llmbench-inject=host=5%"])
def test_results_of_other_work_are_measured_again(bench: Bench, option: str) -> None:
    bench.rows("a")
    bench.run("--llmbench-results=r.jsonl")

    bench.run("--llmbench-resume=r.jsonl", option)

    assert bench.asked() == ["a", "a"]


def test_both_cases_of_one_test_are_resumed(bench: Bench) -> None:
    bench.test(
        """
def test_two(llmbench):
    for name in ("a", "b"):
        llmbench.check(llmbench.measure(Case.custom("m:f", name=name)), row=name)
"""
    )
    bench.run(RECORD, "--llmbench-results=r.jsonl").assert_outcomes(passed=1)

    bench.run("--llmbench-resume=r.jsonl").assert_outcomes(passed=1)

    assert bench.asked() == ["a", "b"]
    assert sorted(bench.baseline("two").rows) == ["a", "b"]


def test_results_of_other_packages_are_measured_again_on_this_machine(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", device="cpu")
    bench.run("--llmbench-scale=smoke", "--llmbench-results=r.jsonl")

    run = bench.run("--llmbench-scale=smoke", "--llmbench-resume=r.jsonl", "-k", "nothing", plugin="no:nothing")

    run.stdout.fnmatch_lines(
        [
            "llmbench: resumes r.jsonl, which has 0 results",
            "llmbench: 1 results to resume are of other packages or another device and are measured again",
        ]
    )


def test_a_missing_file_is_a_usage_error(bench: Bench) -> None:
    run = bench.run("--llmbench-resume=nowhere.jsonl")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(
        ["ERROR: --llmbench-resume: *nowhere.jsonl: results cannot be read: No such file or directory"]
    )


def test_a_file_of_something_else_is_a_usage_error_and_stays_as_it_is(bench: Bench) -> None:
    (bench.folder / "notes.txt").write_text("Dear diary,\nnothing was measured today")

    run = bench.run("--llmbench-resume=notes.txt")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: --llmbench-resume: *notes.txt, line 1: is not a result*"])
    assert (bench.folder / "notes.txt").read_text() == "Dear diary,\nnothing was measured today"


def with_a_huge_number(line: str) -> str:
    return line.replace('"loss_first":2.5', f'"loss_first":{10**25}')


def without_a_process(line: str) -> str:
    start, _, rest = line.partition('"processes":[')
    end = rest.partition('],"measured_at"')[2]
    return f'{start}"processes":[],"measured_at"{end}'


def of_a_newer_format(line: str) -> str:
    return line.replace('"format":1', '"format":2,"novel":true')


@pytest.mark.parametrize("damage", [with_a_huge_number, without_a_process, of_a_newer_format])
def test_a_line_that_is_no_result_costs_its_row_and_no_other(bench: Bench, damage: Callable[[str], str]) -> None:
    bench.rows("a", "b", "c")
    bench.run(RECORD)
    bench.run("--llmbench-results=r.jsonl")
    path = bench.folder / "r.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert damage(lines[1]) != lines[1]
    path.write_text(lines[0] + damage(lines[1]) + lines[2])
    asked = bench.asked()

    run = bench.run("--llmbench-resume=r.jsonl")

    run.assert_outcomes(passed=3)
    assert bench.asked() == [*asked, "b"]
    run.stdout.fnmatch_lines(["=* llmbench =*", "llmbench: *r.jsonl, line 2: *; the line is left out"])
    again = bench.run("--llmbench-resume=r.jsonl")
    again.assert_outcomes(passed=3)
    assert bench.asked() == [*asked, "b"]


def test_a_result_with_a_nan_in_it_is_a_usage_error(bench: Bench) -> None:
    bench.rows("a")
    bench.run("--llmbench-results=r.jsonl")
    path = bench.folder / "r.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"loss_first":2.5', b'"loss_first":NaN'))

    run = bench.run("--llmbench-resume=r.jsonl")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: --llmbench-resume: *r.jsonl, line 1: is not a result*"])


def await_lines(path: Path, count: int) -> None:
    """Wait until a file has so many whole lines."""
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "the run did not get so far"
        time.sleep(0.02)


def test_lines_are_json_for_other_tools(bench: Bench) -> None:
    bench.rows("a")
    bench.run(RECORD)

    (line,) = bench.result_files()[0].read_bytes().splitlines()

    decoded = msgspec.json.decode(line)
    assert decoded["measurement"]["processes"][0]["metrics"]["samples_per_second"] == 2.0
    assert (decoded["table"], decoded["row"], decoded["decision"]) == ("speed", "a", "pass")
