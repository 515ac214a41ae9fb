"""Why a row failed, in the words of a test report."""

from __future__ import annotations

import math

from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict
from pytest_llmbench.metrics import METRICS, Metric
from pytest_llmbench.units import gib, percent

__all__ = ["failure_sentence"]

_NAMED_IF_UNCHANGED = ("torch", "transformers", "peft", "driver")
_DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "same": "must not move"}


def failure_sentence(row_id: str, verdict: RowVerdict) -> str:
    """
    One line for each metric that failed, or one for the row, and which packages are new since the baseline.

    >>> failure_sentence("qwen-7b-chat", verdict)  # doctest: +SKIP
    'qwen-7b-chat: device_busy_seconds_per_sample 0.2301 -> 0.2532 s, +10.0 % (limit +2.0 %), lower
    is better. Packages: bitsandbytes 0.48.2 -> 0.50.2; torch, transformers, peft, driver unchanged.'
    """
    failed = [metric for metric in verdict.metrics if metric.gates and metric.status in ("regressed", "inconclusive")]
    # What regressed first: it is what a reader acts on.
    failed.sort(key=lambda metric: metric.status == "inconclusive")
    told = [_metric_text(metric) for metric in failed] or [verdict.reason]
    lines = [f"{row_id}: {text.rstrip('.')}." for text in told]
    packages = _packages_text(verdict)
    if packages and len(lines) == 1:
        return f"{lines[0]} {packages}"
    return "\n".join([*lines, packages] if packages else lines)


def _metric_text(verdict: MetricVerdict) -> str:
    where = verdict.metric if verdict.device is None else f"{verdict.metric} of GPU {verdict.device}"
    if verdict.status == "inconclusive":
        return f"{where} inconclusive, {verdict.reason}"
    metric = METRICS[verdict.metric]
    return f"{where} {_move_text(metric, verdict)}, {_limit_text(verdict)}, {_DIRECTIONS[metric.better]}"


def _move_text(metric: Metric, verdict: MetricVerdict) -> str:
    before, after = _number(verdict.baseline, verdict.device), _number(verdict.now, verdict.device)
    unit = "GiB" if metric.unit == "B" else metric.unit
    show = gib if metric.unit == "B" else _short
    old, new = show(before), show(after)
    if old == new:
        old, new, unit = repr(before), repr(after), metric.unit
    return f"{old} -> {new}" + ("" if unit in ("1", "ratio") else f" {unit}")


def _number(value: object, device: int | None) -> float:
    chosen = value[device or 0] if isinstance(value, tuple) else value
    assert isinstance(chosen, int | float)
    return chosen


def _short(number: float) -> str:
    return f"{number:.4g}" if abs(number) < 1000 else f"{number:.10g}"


def _limit_text(verdict: MetricVerdict) -> str:
    if verdict.change is None or verdict.limit is None:
        return verdict.reason
    change = percent(verdict.change)
    if verdict.limit == 0:
        return f"{change} (limit 0, {verdict.reason})"
    # The limit on the side to which it moved.
    return f"{change} (limit {percent(math.copysign(verdict.limit, verdict.change))})"


def _packages_text(verdict: RowVerdict) -> str:
    if not verdict.package_changes and not verdict.unchanged_packages:
        return ""
    if not verdict.package_changes:
        return "Packages: all unchanged."
    parts = ["; ".join(str(change) for change in verdict.package_changes)]
    unchanged = [name for name in _NAMED_IF_UNCHANGED if name in verdict.unchanged_packages]
    if unchanged:
        parts.append(f"{', '.join(unchanged)} unchanged")
    return f"Packages: {'; '.join(parts)}."
