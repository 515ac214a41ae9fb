"""What another package adds, as its users have it: the example is measured, judged, and told apart when it is broken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import forked
import installed
import surroundings
from pytest_llmbench.engine.attention import check_available
from pytest_llmbench.engine.models import architecture_of
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.engine.quantization import quantizer
from pytest_llmbench.store.results import read_results

EXAMPLE = Path(__file__).parents[2] / "examples" / "extension"
METRIC = "saved_tensors_per_sample"
SMOKE = ("--llmbench", "--llmbench-scale=smoke", "--llmbench-samples=2")


@pytest.fixture(name="run")
def _run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Runs the example at smoke scale, installed in the folder of the test."""
    installed.install(EXAMPLE, pytester.path)
    monkeypatch.setenv("PYTHONPATH", surroundings.python_path(pytester.path))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*options: str) -> pytest.RunResult:
        return forked.run_forked(pytester, "-p", "acme_llmbench.plugin", *SMOKE, "--llmbench-results=r.jsonl", *options)

    return run


def test_the_example_is_recorded_and_passes_with_its_own_metric(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    run("--llmbench-missing=record").assert_outcomes(passed=2)

    plain, _ = read_results(pytester.path / "r.jsonl")
    (process,) = plain.measurement.processes
    assert process.metrics[METRIC] > 10  # type: ignore[operator]
    assert METRIC in process.phase_seconds
    run().assert_outcomes(passed=2)
    assert [result.verdict.status for result in read_results(pytester.path / "r.jsonl")[-2:]] == ["unchanged"] * 2


def test_its_metric_gates(run: Callable[..., pytest.RunResult], pytester: pytest.Pytester) -> None:
    run("--llmbench-missing=record", "-k", "sparse")
    probes = pytester.path / "acme_llmbench" / "probes.py"
    probes.write_text(probes.read_text().replace("count / samples", "count / samples + 1"))

    changed = run("-k", "sparse")

    changed.assert_outcomes(failed=1)
    changed.stdout.fnmatch_lines([f"acme[[]sparse[]]: {METRIC} *lower is better*"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("count / 0", "ZeroDivisionError: division by zero"),
        ("torch.tensor(1.0)", "ValidationError: Expected `int | float | array`, got `Tensor`"),
        ("float('nan')", "what the probe gave is nan, which is not a number to compare with"),
        ("10**25", "what the probe gave is a number of more than 64 bits"),
    ],
)
def test_a_probe_that_fails_costs_its_metric_and_says_why(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester, given: str, why: str
) -> None:
    probes = pytester.path / "acme_llmbench" / "probes.py"
    probes.write_text(probes.read_text().replace("return count / samples", f"return {given}"))

    run("--llmbench-missing=record", "-k", "sparse").assert_outcomes(passed=1)

    (result,) = read_results(pytester.path / "r.jsonl")
    assert result.measurement.processes[0].missing[METRIC] == why


def test_its_metric_cannot_be_judged_where_the_package_is_not_installed(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    run("--llmbench-missing=record", "-k", "plain")
    (pytester.path / "acme_llmbench-1.0.dist-info" / "entry_points.txt").unlink()

    refused = run("-k", "plain")

    assert refused.ret != 0
    refused.stdout.fnmatch_lines([f"*unknown metric '{METRIC}'*"])


@pytest.mark.usefixtures("run")
def test_its_executor_runs_the_rows_in_processes_of_their_own(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked.fork_servers(monkeypatch)
    plugins = ("pytest_llmbench.plugin", "acme_llmbench.plugin")
    options = (*SMOKE, "--llmbench-missing=record", "--acme-log=acme.log")
    done = forked.run_forked(pytester, *options, plugins=plugins)

    done.assert_outcomes(passed=2)
    done.stdout.fnmatch_lines(["llmbench: CPU, logged to acme.log, *"])
    assert (pytester.path / "acme.log").read_text() == "acme:twin: ok\n" * 2


@pytest.mark.parametrize(
    ("module", "what", "ask"),
    [
        ("models", "model acme:twin", lambda: architecture_of("acme:twin", "full")),
        ("attentions", "attention acme:plain", lambda: check_available("acme:plain", torch.device("cpu"))),
        ("quantizations", "quantization acme:sparse", lambda: quantizer("acme:sparse")),
    ],
)
def test_a_part_that_does_not_load_is_unavailable_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, what: str, ask: Callable[[], object]
) -> None:
    installed.install(EXAMPLE, tmp_path)
    (tmp_path / "acme_llmbench" / f"{module}.py").write_text("import moons\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_llmbench", raising=False)  # of another folder

    with pytest.raises(Unavailable) as raised:
        ask()

    name = what.split()[1]
    told = f"{what}: {name} of acme-llmbench 1.0 does not load: ModuleNotFoundError: No module named 'moons'"
    assert str(raised.value) == told


def test_rows_are_unavailable_where_the_package_is_not_installed(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    (pytester.path / "acme_llmbench-1.0.dist-info" / "entry_points.txt").unlink()

    run("-k", "plain").assert_outcomes(skipped=1)

    (result,) = read_results(pytester.path / "r.jsonl")
    assert result.measurement.reason == (
        "model acme:twin: no installed package offers acme:twin among the entry points pytest_llmbench.models"
    )
