"""When rows are measured, when they are skipped, and that a run which measured nothing can fail."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

TABLES = Path(__file__).parents[1] / "tables"
NO_EXECUTOR = "no:nothing"
"""Instead of the name of a plugin: measure on this machine."""


def test_the_published_tables_are_96_tests(bench: Bench) -> None:
    run = bench.run(str(TABLES), "-m", "gpu", "--collect-only", "-q")

    assert sum("::test_" in line for line in run.outlines) == 96


def test_without_the_switch_every_row_is_skipped_for_one_reason(bench: Bench) -> None:
    run = bench.pytester.runpytest_inprocess("-p", "pytest_llmbench.plugin", str(TABLES), "-m", "gpu", "-rs")

    run.assert_outcomes(skipped=96)
    reasons = {line.partition(": ")[2] for line in run.outlines if line.startswith("SKIPPED")}
    assert reasons == {"measures only with --llmbench"}


def test_all_96_rows_can_be_recorded_and_pass_afterwards(bench: Bench) -> None:
    options = (
        str(TABLES),
        "-m",
        "gpu",
        f"--llmbench-baselines={bench.folder}/baselines",
        f"--llmbench-results={bench.folder}/r.jsonl",
    )

    assert bench.run(*options, "--llmbench-update=missing").ret == 0
    run = bench.run(*options)

    run.assert_outcomes(passed=96)
    assert len(list(bench.baseline_path().parent.glob("*.json"))) == 7
    assert len(bench.results(bench.folder / "r.jsonl")) == 192


def test_without_a_gpu_rows_are_skipped_with_a_hint(bench: Bench) -> None:
    bench.rows("a", "b")

    run = bench.run("-rs", plugin=NO_EXECUTOR)

    run.assert_outcomes(skipped=2)
    run.stdout.fnmatch_lines(
        [
            "llmbench: no CUDA device, scale full*",
            "SKIPPED [[]2] *no CUDA device; --llmbench-scale=smoke runs miniatures on the CPU (*)",
        ]
    )


def test_without_a_gpu_a_run_that_insists_on_one_is_a_usage_error(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run("--llmbench-device=cuda", plugin=NO_EXECUTOR)

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: --llmbench-device=cuda: no CUDA device: *"])


def test_the_cpu_runs_miniatures_only(bench: Bench) -> None:
    run = bench.run("--llmbench-device=cpu", plugin=NO_EXECUTOR)

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: --llmbench-device=cpu runs miniatures only; add --llmbench-scale=smoke"])


def test_a_strict_run_fails_if_nothing_was_measured(bench: Bench) -> None:
    bench.rows("a")

    assert bench.run(plugin=NO_EXECUTOR).ret == 0
    run = bench.run("--llmbench-strict", plugin=NO_EXECUTOR)

    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(
        ["llmbench: no case was measured", "llmbench: --llmbench-strict: no case was measured and judged"]
    )


def test_a_strict_run_fails_if_every_row_was_unavailable(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", outcome="unavailable")

    assert bench.run("--llmbench-strict").ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("outcome", ["ok", "oom"])
def test_a_strict_run_passes_if_every_row_was_judged(bench: Bench, outcome: str) -> None:
    bench.rows("a", "b")
    bench.answer("a", outcome=outcome)
    bench.record()

    assert bench.run("--llmbench-strict").ret == 0


@pytest.mark.parametrize("option", ["--llmbench-missing=record", "--llmbench-update=missing"])
def test_a_strict_run_fails_if_a_row_was_recorded_instead_of_judged(bench: Bench, option: str) -> None:
    bench.rows("a")
    bench.record()
    bench.rows("a", "b")

    run = bench.run("--llmbench-strict", option)

    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert strictly(run) == ["not judged, recorded in baselines/test-gpu/speed.json: speed[b]"]


@pytest.mark.parametrize("mode", ["failing", "moved", "all"])
def test_a_strict_run_fails_if_a_regression_became_the_baseline(bench: Bench, mode: str) -> None:
    bench.rows("a")
    bench.record()
    bench.answer("a", metrics={"samples_per_second": 1.0})

    assert bench.run("--llmbench-strict", f"--llmbench-update={mode}").ret == pytest.ExitCode.TESTS_FAILED


CHECKED = "    llmbench(Case.custom('m:f', name='a'))"
UNJUDGED = {
    "unavailable": (
        f"def test_own(llmbench):\n{CHECKED}",
        {"outcome": "unavailable"},
        "unavailable: a canned unavailable",
    ),
    "no device": (f"def test_own(llmbench):\n{CHECKED}", {"not_measurable": "needs 8 GPUs"}, "skipped: needs 8 GPUs"),
    "skipped": (f"@pytest.mark.skip('no')\ndef test_own(llmbench):\n{CHECKED}", {}, "skipped: no"),
    "unchecked": (
        "def test_own(llmbench):\n    llmbench.measure(Case.custom('m:f', name='a'))",
        {},
        "measured and not checked",
    ),
    "unmeasured": ("def test_own(llmbench): pass", {}, "not measured"),
    "expected to fail": (
        f"@pytest.mark.xfail\ndef test_own(llmbench):\n{CHECKED}",
        {},
        "no baseline is stored for this row",
    ),
}


@pytest.mark.parametrize(("test", "answer", "told"), UNJUDGED.values(), ids=list(UNJUDGED))
def test_a_strict_run_fails_if_one_row_of_several_was_not_judged(
    bench: Bench, test: str, answer: dict[str, str], told: str
) -> None:
    bench.rows("judged")
    bench.record()
    bench.test(test)
    bench.answer("a", **answer)

    assert bench.run().ret == 0
    run = bench.run("--llmbench-strict")

    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert strictly(run) == [f"not judged, {told}: own[own]"]


def strictly(run: pytest.RunResult) -> list[str]:
    """What a strict run says of itself."""
    start = "llmbench: --llmbench-strict: "
    return [line.removeprefix(start) for line in run.outlines if line.startswith(start)]


def test_a_strict_run_fails_if_no_test_measures(bench: Bench) -> None:
    bench.pytester.makepyfile("def test_anything(): pass")

    assert bench.run("--llmbench-strict").ret == pytest.ExitCode.TESTS_FAILED


def test_what_the_executor_cannot_measure_is_skipped(bench: Bench) -> None:
    bench.rows("a")
    bench.answer("a", not_measurable="needs 8 GPUs, 4 in the cluster")

    run = bench.run("-rs")

    run.assert_outcomes(skipped=1)
    run.stdout.fnmatch_lines(["SKIPPED*needs 8 GPUs, 4 in the cluster"])


def test_a_setup_that_measures_nothing_ends_the_run(bench: Bench) -> None:
    bench.rows("a", "b")
    bench.answer("a", setup_error="torch not installed; pip install it")

    run = bench.run()

    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(
        ["FAILED *torch not installed; pip install it", "!!* llmbench: torch not installed; pip install it !!*"]
    )
    run.stdout.no_fnmatch_line("*another exception*")
    assert bench.asked() == ["a"]


def test_a_gpu_model_without_a_cluster_is_a_usage_error(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run("--llmbench-ray-gpu=H100", plugin=NO_EXECUTOR)

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*--llmbench-ray-gpu: say which cluster, with --llmbench-ray"])


def test_a_cluster_without_ray_installed_is_said(bench: Bench) -> None:
    if find_spec("ray") is not None:
        pytest.skip("ray is installed")
    bench.rows("a")

    run = bench.run("--llmbench-ray=auto", plugin=NO_EXECUTOR)

    assert run.ret != 0
    assert "pytest-llmbench[cluster]" in run.stdout.str() + run.stderr.str()
