"""Rows in the table of pytest-benchmark."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("pytest_benchmark")

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

ON = ("-p", "pytest_benchmark.plugin", "--llmbench-benchmark", "--llmbench-missing=record")
ROUNDS = [{"seconds": 8.0, "samples": 4, "tokens": 100}, {"seconds": 4.0, "samples": 4, "tokens": 100}]


def saved(bench: Bench, *options: str) -> list[dict[str, Any]]:
    bench.run(*ON, "--benchmark-json=b.json", *options)
    benchmarks: list[dict[str, Any]] = json.loads((bench.folder / "b.json").read_text())["benchmarks"]
    return benchmarks


def test_a_row_is_a_benchmark_with_its_rounds_per_sample(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.answer("a", rounds=ROUNDS)
    bench.answer("b", rounds=ROUNDS[:1])

    first, second = saved(bench)

    assert (first["name"], first["group"], first["stats"]["data"]) == ("test_speed[a]", "speed", [2.0, 1.0])
    assert second["stats"]["data"] == [2.0]


def test_other_metrics_and_the_verdict_go_with_it(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", rounds=ROUNDS)

    (benchmark,) = saved(bench)

    assert benchmark["extra_info"]["verdict"] == "recorded"
    assert benchmark["extra_info"]["device_busy_seconds_per_sample"] == 0.25


def test_a_row_that_fails_is_in_it_too(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", rounds=ROUNDS)
    bench.run(*ON)
    bench.answer("a", rounds=ROUNDS, metrics={"kernels_per_sample": 120.0})

    (benchmark,) = saved(bench)

    assert benchmark["extra_info"]["verdict"] == "regressed"


def test_pytest_benchmarks_own_comparison_reads_it(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", rounds=ROUNDS)
    bench.run(*ON, "--benchmark-save=before")
    bench.answer("a", rounds=[{"seconds": 16.0, "samples": 4, "tokens": 100}])

    run = bench.run(*ON, "--benchmark-compare=0001", "--benchmark-compare-fail=mean:50%")

    run.stderr.fnmatch_lines(["*Performance has regressed*"])
    assert run.ret != 0


def test_a_row_without_rounds_is_left_out(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run(*ON)

    assert run.ret == 0
    assert "seconds_per_sample" not in run.stdout.str()


def test_without_pytest_benchmark_it_is_a_usage_error(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run("--llmbench-benchmark")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*--llmbench-benchmark: pytest-benchmark is not installed or switched off"])
