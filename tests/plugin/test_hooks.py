"""The hooks that other plugins may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench


def test_each_result_is_told_after_it_is_written(bench: Bench) -> None:
    bench.pytester.makeconftest(
        """
from pathlib import Path
from pytest_llmbench.store.results import read_results

def pytest_llmbench_result(result, config):
    written = [one.row for one in read_results(config.rootpath / "r.jsonl")]
    with Path("heard.txt").open("a") as stream:
        stream.write(f"{result.row} {result.decision} {written}\\n")
"""
    )
    bench.rows("a", "b")

    bench.run("--llmbench-results=r.jsonl", "--llmbench-missing=record")

    assert (bench.folder / "heard.txt").read_text() == "a pass ['a']\nb pass ['a', 'b']\n"


def test_the_first_executor_that_a_plugin_supplies_is_used(bench: Bench) -> None:
    bench.pytester.makeconftest(
        """
import canned

class Mine(canned.CannedExecutor):
    def __str__(self):
        return "my cluster"

def pytest_llmbench_executor(config):
    return Mine(config.rootpath) if config.getoption("--llmbench-strict") else None
"""
    )
    bench.rows("a")

    bench.run("--llmbench-strict").stdout.fnmatch_lines(["llmbench: my cluster, *"])
    bench.run().stdout.fnmatch_lines(["llmbench: canned executor, *"])


def test_an_executor_is_closed_at_the_end(bench: Bench) -> None:
    bench.pytester.makeconftest(
        """
import canned

class Mine(canned.CannedExecutor):
    def close(self):
        print("closed after", self._folder.joinpath("asked.txt").read_text().split())

def pytest_llmbench_executor(config):
    return Mine(config.rootpath)
"""
    )
    bench.rows("a", "b")

    run = bench.run("-s")

    assert run.outlines.count("closed after ['a', 'b']") == 1


def test_a_run_without_the_switch_asks_for_no_executor(bench: Bench) -> None:
    bench.pytester.makeconftest("def pytest_llmbench_executor(): raise AssertionError('asked for')")
    bench.rows("a")

    run = bench.pytester.runpytest_inprocess("-p", "pytest_llmbench.plugin")

    run.assert_outcomes(skipped=1)
