"""What a person sees: header, progress, tables, in every mode of pytest's reporter."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

ESCAPE = "\x1b["


def test_the_header_names_executor_scale_samples_baselines_and_result_file(bench: Bench) -> None:
    run = bench.run("--llmbench-scale=smoke", "--llmbench-samples=full", "--llmbench-results=out/r.jsonl")

    run.stdout.fnmatch_lines(
        [
            "llmbench: canned executor, scale smoke, whole epoch, baselines baselines",
            "llmbench: results out/r.jsonl",
        ]
    )


def test_each_row_is_told_with_outcome_verdict_and_what_is_left(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.answer("b", outcome="oom")

    run = bench.run("--llmbench-missing=record")

    told = [re.sub(r"\d+\.\d\d s", "N s", line) for line in run.outlines if line.startswith("llmbench [")]
    assert told == [
        "llmbench [1/2] speed[a]: ok, recorded, N s, about 1 s left",
        "llmbench [2/2] speed[b]: oom, recorded, N s",
    ]


def test_a_row_whose_test_takes_the_fixture_late_is_counted(bench: Bench) -> None:
    bench.rows("a")
    bench.test("def test_own(request):\n    request.getfixturevalue('llmbench')(Case.custom('m:f', name='b'))")

    run = bench.run("--llmbench-missing=record")

    run.stdout.fnmatch_lines(["llmbench [[]1/2] own[[]own]: *", "llmbench [[]2/2] speed[[]a]: *"])


RERUNS = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for attempt in range(3):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if not any(report.failed for report in reports) or attempt == 2:
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""


def test_a_test_that_is_run_again_is_one_row_of_which_the_last_attempt_counts(bench: Bench) -> None:
    bench.rows("a")
    bench.record()
    bench.answers("a", *[{"metrics": {"samples_per_second": 1.0}}] * 10, {})  # each attempt takes five
    bench.pytester.makeconftest(RERUNS)

    run = bench.run("--junitxml=out.xml", "--llmbench-strict")

    run.assert_outcomes(passed=1)
    assert [result.verdict.status for result in bench.results()] == ["regressed", "regressed", "unchanged"]
    run.stdout.fnmatch_lines(
        ["llmbench [[]1/1] *", "llmbench [[]1/1] *", "llmbench [[]1/1] *", "llmbench: 1 unchanged; *"]
    )
    verdicts = [
        one for one in ET.parse(bench.folder / "out.xml").iter("property") if one.get("name") == "llmbench_verdict"
    ]
    assert [one.get("value") for one in verdicts] == ["unchanged"]


@pytest.mark.parametrize("option", ["--deselect=test_rows.py::test_speed[b]", "--lf"])
def test_only_rows_that_are_selected_are_counted(bench: Bench, option: str) -> None:
    bench.rows("a", "b")
    bench.answer("b", not_measurable="not here")
    bench.run("--llmbench-missing=record")
    bench.answer("a", metrics={"samples_per_second": 1.0})
    bench.run()

    run = bench.run(option)

    run.stdout.fnmatch_lines(["llmbench [[]1/1] speed[[]a]: ok, regressed*"])
    assert not any("/2]" in line for line in run.outlines)


def test_a_terminal_shows_the_phase_while_a_row_is_measured(bench: Bench) -> None:
    bench.rows("a")
    terminal, slave = pty.openpty()
    command = [sys.executable, "-m", "pytest", "-p", "pytest_llmbench.plugin", "-p", "canned", "--llmbench"]
    with subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, cwd=bench.folder):
        os.close(slave)
        shown = _read_all(terminal)

    assert re.search(r"\r\[1/1\] speed\[a\]: rounds 2\.00 samples/s, 0\.\d\d s +\r +\r", shown)


def test_without_a_terminal_no_phase_is_shown(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run()

    run.stdout.no_fnmatch_line("*rounds*")
    assert not any("\r" in line for line in run.outlines)


def test_the_table_has_the_columns_of_the_published_page_and_the_verdict(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.record()
    bench.answer("b", metrics={"samples_per_second": 1.0})

    run = bench.run()

    table = [line.split() for line in summary(run)]
    assert ["Row", "metric", "baseline", "now", "change", "limit", "verdict"] in table
    assert ["samples/s", "2", "2", "+0.0", "%", "±5.8", "%", "unchanged"] in table
    assert ["b", "5", "metrics", "regressed"] in table
    assert ["samples/s", "2", "1", "-50.0", "%", "±6.0", "%", "regressed"] in table


def test_quiet_prints_the_totals_only(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run("-q", "--llmbench-missing=record")

    assert [re.sub(r"\d+\.\d\d s", "N s", line.partition("; llmbench-results")[0]) for line in summary(run)] == [
        "llmbench: 1 recorded; N s of measuring"
    ]
    run.stdout.no_fnmatch_line("*llmbench [[]*")


def test_without_pytests_reporter_a_run_judges_in_silence(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run("-p", "no:terminal")

    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.outlines == []
    assert run.errlines == []
    assert len(bench.results()) == 1


def test_colour_is_what_pytest_says(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.rows("a")

    assert any(ESCAPE in line for line in summary(bench.run("--color=yes")))
    assert not any(ESCAPE in line for line in bench.run("--color=no").outlines)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any(ESCAPE in line for line in bench.run("--color=auto").outlines)


@pytest.mark.parametrize("width", [80, 200])
def test_tables_fit_the_terminal(bench: Bench, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    long = "a-row-" + "with-a-long-name-" * 5
    bench.rows(long, "b")

    lines = summary(bench.run("--llmbench-missing=record"))

    assert max(map(len, lines[:-1])) <= width
    assert any("recorded" in line for line in lines[:-1])


def test_junit_xml_has_outcome_and_verdict(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.answer("b", outcome="oom")

    bench.run("--junitxml=out.xml", "--llmbench-missing=record")

    cases = ET.parse(bench.folder / "out.xml").iter("testcase")
    properties = [{one.get("name"): one.get("value") for one in case.iter("property")} for case in cases]
    assert properties == [
        {"llmbench_outcome": "ok", "llmbench_verdict": "no baseline"},
        {"llmbench_outcome": "oom", "llmbench_verdict": "no baseline"},
    ]


def test_a_run_stops_at_its_first_failure(bench: Bench) -> None:
    bench.rows("a", "b")

    bench.run("-x").assert_outcomes(failed=1)

    assert bench.asked() == ["a"]


def test_a_failed_row_can_be_run_again_alone(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.record()
    bench.answer("b", metrics={"samples_per_second": 1.0})
    bench.run()
    bench.forget()

    bench.run("--lf").assert_outcomes(failed=1)

    assert set(bench.asked()) == {"b"}


def test_a_regression_of_an_xfail_row_is_expected(bench: Bench) -> None:
    bench.test("@pytest.mark.xfail(strict=True)\ndef test_known(llmbench):\n    llmbench(Case.custom('m:f', name='a'))")

    bench.run().assert_outcomes(xfailed=1)


def summary(run: pytest.RunResult) -> list[str]:
    """The lines of the plugin's own section at the end."""
    lines = run.outlines
    start = next(number for number, line in enumerate(lines) if re.search("=+ llmbench =+", line))
    end = next(number for number in range(start + 1, len(lines) + 1) if lines[number - 1].startswith("llmbench: "))
    return lines[start + 1 : end]


def _read_all(terminal: int) -> str:
    """What is written to a pseudo-terminal until its last writer is gone."""
    data = b""
    while True:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # Linux says so at the end
            more = b""
        if not more:
            os.close(terminal)
            return data.decode()
        data += more
