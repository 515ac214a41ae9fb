"""Runs spread over processes of pytest-xdist: what each of them finds out reaches the user once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

pytest.importorskip("xdist")

TWO = ("-p", "xdist", "-n", "2")
HOOK = """
import os
from pathlib import Path

def pytest_llmbench_result(result, config):
    with Path("heard.txt").open("a") as stream:
        stream.write(f"{result.row} {hasattr(config, 'workerinput')}\\n")
"""


def test_results_reach_the_controller_once(bench: Bench) -> None:
    bench.pytester.makeconftest(HOOK)
    bench.rows("a", "b", "c", "d")
    bench.answer("b", outcome="oom")

    run = bench.run_apart(*TWO, "--llmbench-missing=record", "--junitxml=out.xml")

    run.assert_outcomes(passed=4)
    assert sorted(bench.asked()) == ["a", "b", "c", "d"]
    assert sorted(result.row for result in bench.results()) == ["a", "b", "c", "d"]
    assert sorted((bench.folder / "heard.txt").read_text().split("\n")) == [
        "",
        "a False",
        "b False",
        "c False",
        "d False",
    ]
    assert sorted(bench.baseline().rows) == ["a", "b", "c", "d"]
    assert sum(bool(re.search("=+ llmbench =+", line)) for line in run.outlines) == 1
    assert sum(line.startswith("llmbench [") for line in run.outlines) == 4
    run.stdout.fnmatch_lines(["llmbench: 4 recorded; *"])
    properties = ET.parse(bench.folder / "out.xml").iter("property")
    assert sorted(one.get("value") or "" for one in properties if one.get("name") == "llmbench_outcome") == [
        "ok",
        "ok",
        "ok",
        "oom",
    ]


def test_what_a_process_announces_is_told_once(bench: Bench) -> None:
    bench.pytester.makeconftest(
        """
        def pytest_llmbench_result(result, config):
            pass
        """
    )
    bench.pytester.makepyfile(
        test_one="from pytest_llmbench import Case\ndef test_x(llmbench): llmbench(Case.custom('m:f', name='a'))",
        test_two="from pytest_llmbench import Case\ndef test_x(llmbench): llmbench(Case.custom('m:f', name='a'))",
    )

    run = bench.run_apart(*TWO, "--llmbench-missing=record")

    assert sum("are one row of table 'x'; rename one of the tests" in line for line in run.outlines) == 2


def test_a_resumed_run_asks_no_process_again(bench: Bench) -> None:
    bench.rows("a", "b", "c", "d")
    bench.run("--llmbench-missing=record", "--llmbench-results=r.jsonl")

    run = bench.run_apart(*TWO, "--llmbench-resume=r.jsonl")

    run.assert_outcomes(passed=4)
    assert bench.asked() == ["a", "b", "c", "d"]


def test_a_strict_run_counts_what_its_processes_measured(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.record()

    assert bench.run_apart(*TWO, "--llmbench-strict").ret == 0
    bench.test("@pytest.mark.skip('not now')\ndef test_own(llmbench): pass")
    run = bench.run_apart(*TWO, "--llmbench-strict", "--llmbench-update=all")

    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines_random(
        [
            "llmbench: --llmbench-strict: not judged, recorded in baselines/test-gpu/speed.json: speed[[][ab]], *",
            "llmbench: --llmbench-strict: not judged, skipped: not now: own[[]own]",
        ]
    )


def test_a_row_whose_test_takes_the_fixture_late_reaches_the_controller(bench: Bench) -> None:
    bench.test("def test_own(request):\n    request.getfixturevalue('llmbench')(Case.custom('m:f', name='a'))")

    run = bench.run_apart(*TWO, "--llmbench-missing=record")

    run.assert_outcomes(passed=1)
    assert [result.row for result in bench.results()] == ["own"]
    run.stdout.fnmatch_lines(["llmbench: 1 recorded; *"])


def test_a_setup_that_measures_nothing_ends_the_run(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", setup_error="torch not installed")

    run = bench.run_apart(*TWO)

    assert run.ret != 0
    run.stdout.fnmatch_lines(["*torch not installed*"])
