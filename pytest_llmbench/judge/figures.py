"""The figures of a metric as text, in the unit that its label names."""

from __future__ import annotations

from functools import partial

from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.schema.metrics import METRICS, Value
from pytest_llmbench.schema.units import apart, gib, size

__all__ = ["move_text", "number_text", "number_texts"]

_WHOLE_FROM = 9999.5
"""From here on four digits would be written as a power of ten."""


def number_texts(metric: MetricVerdict) -> tuple[str, str]:
    """Baseline and now; where they differ, so do the texts."""
    return apart(metric.baseline, metric.now, partial(number_text, metric.metric))


def move_text(metric: MetricVerdict) -> str:
    """Both values with unit and denominator, of the worst device: `2.9 MiB -> 3.0 MiB a sample`."""
    unit = METRICS[metric.metric].unit
    show = size if unit == "B" else _milliseconds if unit == "s" else _plain
    before, after = apart(_of_device(metric.baseline, metric.device), _of_device(metric.now, metric.device), show)
    _, per, what = metric.metric.rpartition("_per_")
    return f"{before} -> {after}" + (f" a {what.replace('_', '-')}" if per else "")


def _of_device(value: Value | None, device: int | None) -> float:
    chosen = value[device or 0] if isinstance(value, tuple) else value
    assert chosen is not None
    return chosen


def _milliseconds(seconds: float, more: int) -> str:
    return f"{seconds * 1e3:,.{2 + more}f} ms"


def _plain(number: float, more: int) -> str:
    return f"{number:,.{4 + more}g}" if abs(number) < _WHOLE_FROM else f"{number:,.{more}f}"


def number_text(metric: str, value: Value | None, more: int = 0) -> str:
    """GiB per GPU, milliseconds, or four significant digits; or *more* digits than that."""
    if value is None:
        return ""
    parts = value if isinstance(value, tuple) else (value,)
    unit = METRICS[metric].unit if metric in METRICS else ""  # a result file may know more metrics
    if unit == "B":
        return "+".join(gib(part, more) for part in parts)
    if unit == "s":
        return "+".join(f"{part * 1e3:,.{2 + more}f}" for part in parts)
    return "+".join(_plain(part, more) for part in parts)
