"""
Metrics with a limit: how far a value may move, who said so, and what a move beyond it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pytest_llmbench.judge.values import values
from pytest_llmbench.judge.verdict import Status
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import Metric, Tolerance, Value

__all__ = ["Limit", "Limited", "held_to", "limit_of", "scatter", "set_by_user", "spread"]

_OF_DEVICES: tuple[Status, ...] = ("improved", "unchanged", "unmeasured", "regressed")
"""A metric has the last of these that one of its devices has: it improved if it did everywhere."""


class Limit(NamedTuple):
    """A tolerance, and where it comes from."""

    tolerance: Tolerance
    said_by: str
    exact: bool = False
    near_zero: Tolerance | None = None
    """The most that the absolute part is of a value above 0, as `Metric.near_zero`."""

    def allows(self, before: float, after: float) -> float:
        """How far the value may move, in its own unit."""
        relative, absolute = self.tolerance.relative * abs(before), self.tolerance.absolute
        if self.near_zero is not None and before >= 0 and after >= 0:
            absolute = min(absolute, max(self.near_zero.relative * before, self.near_zero.absolute))
        return max(relative, absolute)


class Limited(NamedTuple):
    """What became of a metric that was held to a limit."""

    status: Status
    reason: str
    change: float | None = None
    limit: float | None = None
    device: int | None = None
    harm: float = 0.0
    """How far it moved the wrong way, relative or absolute: what the worst device has most of."""


def set_by_user(metric: Metric, of_row: Mapping[str, Tolerance], overrides: Mapping[str, Tolerance]) -> Limit | None:
    """The limit that somebody has set for the metric; the run beats the row."""
    if metric.name in overrides:
        return Limit(overrides[metric.name], "tolerance set for this run")
    if metric.name in of_row:
        return Limit(of_row[metric.name], "tolerance of the row")
    return None


def limit_of(metric: Metric, *, same_environment: bool, spread: float = 0.0) -> Limit:
    """
    The limit of a metric for which nobody has set one.

    Args:
        spread: how far apart processes of one side are; no limit near zero is below it.
    """
    if metric.gate == "exact" and same_environment:
        return Limit(Tolerance(absolute=metric.jitter), "must be equal within one environment", exact=True)
    near_zero = metric.near_zero
    if near_zero is not None:
        near_zero = Tolerance(near_zero.relative, max(near_zero.absolute, spread))
    return Limit(metric.tolerance, "default tolerance", near_zero=near_zero)


def spread(now: Measurement, then: Measurement, metric: Metric) -> float:
    """How far the processes of one side are apart, of the side where that is more."""
    return max(_reach(values(measurement, metric.name)) for measurement in (now, then))


def scatter(now: Measurement, then: Measurement, metric: Metric) -> str | None:
    """Why equality cannot be asked for: processes of one side that do not agree."""
    for side, measurement in (("the baseline's", then), ("the", now)):
        found = values(measurement, metric.name)
        if _reach(found) > metric.jitter:
            different = sorted({str(value) for value in found})
            return f"{side} processes do not agree on it: {', '.join(different)}; a tolerance of the row would decide"
    return None


def _reach(found: Sequence[Value]) -> float:
    """The largest distance between two values, of the device where it is largest; infinite for other devices."""
    rows = [value if isinstance(value, tuple) else (value,) for value in found]
    if len({len(row) for row in rows}) > 1:
        return math.inf
    return max((max(device) - min(device) for device in zip(*rows, strict=True)), default=0)


def held_to(limit: Limit, metric: Metric, before: Value, after: Value) -> Limited:
    """The worst device's move, against the limit."""
    if not isinstance(before, tuple) and not isinstance(after, tuple):
        return _number_held_to(limit, metric, before, after)
    if not isinstance(before, tuple) or not isinstance(after, tuple) or len(before) != len(after) or not before:
        return Limited("unmeasured", f"not for the same devices: {before} -> {after}")
    judged = [_number_held_to(limit, metric, *pair) for pair in zip(before, after, strict=True)]
    worst = max(range(len(judged)), key=lambda device: (_OF_DEVICES.index(judged[device].status), judged[device].harm))
    return judged[worst]._replace(device=worst if len(judged) > 1 else None)


def _number_held_to(limit: Limit, metric: Metric, before: float, after: float) -> Limited:
    if not (math.isfinite(before) and math.isfinite(after)):
        return Limited("unmeasured", f"not finite: {before} -> {after}")
    moved = after - before
    allowed = limit.allows(before, after)
    harm = {"lower": moved, "higher": -moved, "same": abs(moved)}[metric.better]
    # The slack is for floats: 1.0 -> 1.05 is a move of 0.05000000000000004.
    status: Status = "unchanged" if abs(moved) <= allowed * (1 + 1e-9) else "regressed" if harm > 0 else "improved"
    if before == 0:
        return Limited(status, f"{limit.said_by}, at most {allowed:.6g} from a baseline of 0", harm=harm)
    scale = abs(before)
    return Limited(status, limit.said_by, change=moved / scale, limit=allowed / scale, harm=harm / scale)
