"""`llmbench history`: what many runs say together: steps that stayed, and creeps too slow for any one run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from pytest_llmbench.cli.console import read, stop
from pytest_llmbench.judge.comparable import around, environment_changes
from pytest_llmbench.judge.history import FEWEST, creep, steps
from pytest_llmbench.judge.values import typical_value
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import METRICS, Metric
from pytest_llmbench.schema.units import counted, percent

__all__ = ["history"]

SMALLEST_BYTES = 0.005
"""Least relative change of a peak of memory that is told."""


class _Finding(NamedTuple):
    sentence: str
    worse: bool


def history(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS.jsonl...", help="Runs, in any order.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric to follow; may be repeated. By default speeds, counts and memory."),
    ] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with status 1 if anything became worse.")] = False,
) -> None:
    """Find steps and slow creeps in the results of many runs, also those that no single run failed for."""
    if unknown := sorted(set(metric or ()) - set(METRICS)):
        stop(f"--metric {unknown[0]}: no such metric; known: {', '.join(METRICS)}")
    series = _series(results)
    if not series:
        stop(f"{', '.join(map(str, results))}: no result in it ended well, and there is nothing to follow")
    by_default = [one.name for one in METRICS.values() if one.gate != "advisory" and one.better != "same"]
    followed = [METRICS[name] for name in metric or by_default]
    found = [finding for row, runs in series.items() for one in followed for finding in _findings(row, runs, one)]
    for finding in found:
        typer.echo(finding.sentence)
    enough = sum(len(runs) >= 2 * FEWEST for runs in series.values())
    typer.echo(
        f"llmbench: {counted(len(found), 'finding')} in {counted(len(series), 'row')}, of which {enough} {'has' if enough == 1 else 'have'} the {2 * FEWEST} runs "
        "or more that a step takes"
    )
    if fail and any(finding.worse for finding in found):
        raise typer.Exit(1)


def _series(files: list[Path]) -> dict[str, list[Measurement]]:
    """Measurements that ended well, by table, row, GPU and work, oldest first; the same measurement once."""
    found: defaultdict[str, dict[str, Measurement]] = defaultdict(dict)
    for file in read(files):
        for result in file:
            measurement, environment = result.measurement, result.measurement.environment
            if measurement.outcome == "ok" and measurement.workload.injection is None and environment is not None:
                scale = "" if measurement.workload.scale == "full" else f" {measurement.workload.scale}"
                name = f"{result.table}[{result.row}] on {environment.device}{scale}, {measurement.workload_hash[:4]}"
                found[name][measurement.measured_at] = measurement
    return {name: [runs[at] for at in sorted(runs)] for name, runs in sorted(found.items())}


def _findings(row: str, runs: list[Measurement], metric: Metric) -> Iterator[_Finding]:
    dated = [(run, _logarithm(run, metric)) for run in runs]
    known = [(run, value) for run, value in dated if value is not None]
    values = [value for _, value in known]
    smallest = math.log1p(metric.smallest_effect or SMALLEST_BYTES)
    found = steps(values, smallest=smallest)
    for step in found:
        before, after = known[step.at - 1][0], known[step.at][0]
        told = _changes_text(before.environment, after.environment)
        yield _Finding(
            f"{row}: {metric.name} stepped by {percent(math.expm1(step.effect))} (p {step.p_value:.1g}) between "
            f"{before.measured_at} and {after.measured_at}; {told}",
            _is_worse(metric, step.effect),
        )
    slow = creep(values, smallest=smallest) if not found else None
    if slow is not None:
        yield _Finding(
            f"{row}: {metric.name} crept by {percent(math.expm1(slow.effect))} (p {slow.p_value:.1g}) from "
            f"{known[0][0].measured_at} to {known[-1][0].measured_at}, in {len(known)} runs without a step",
            _is_worse(metric, slow.effect),
        )


def _changes_text(before: Environment | None, after: Environment | None) -> str:
    changes, _ = environment_changes(before, after)
    beside, code_known = around(before, after)
    same = "packages unchanged" if code_known else "packages of the same version"
    packages = f"packages: {'; '.join(map(str, changes))}" if changes else same
    return "; ".join([packages, *map(str, beside)])


def _logarithm(run: Measurement, metric: Metric) -> float | None:
    """Of the typical value, summed over the GPUs where there is one for each; None if it has none."""
    value = typical_value(run, metric.name)
    total = sum(value) if isinstance(value, tuple) else value
    return math.log(total) if total is not None and math.isfinite(total) and total > 0 else None


def _is_worse(metric: Metric, effect: float) -> bool:
    return effect < 0 if metric.better == "higher" else effect > 0
