"""The figures of a metric as text, in the unit that its label names."""

from __future__ import annotations

from functools import partial

from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.schema.metrics import METRICS, Value
from pytest_llmbench.schema.units import apart, gib

__all__ = ["number_text", "number_texts"]

_WHOLE_FROM = 9999.5
"""From here on four digits would be written as a power of ten."""


def number_texts(metric: MetricVerdict) -> tuple[str, str]:
    """Baseline and now; where they differ, so do the texts."""
    return apart(metric.baseline, metric.now, partial(number_text, metric.metric))


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
    return "+".join(f"{part:,.{4 + more}g}" if abs(part) < _WHOLE_FROM else f"{part:,.{more}f}" for part in parts)
