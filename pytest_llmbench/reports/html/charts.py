"""
Where the marks of a chart lie, in percent of its width. Templates draw them, so that all text is escaped there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["Axis", "Lane", "Strip", "Tick", "axis", "lane", "sparkline", "strip"]


class Tick(msgspec.Struct, frozen=True):
    """A number on an axis."""

    at: float
    text: str


class Axis(msgspec.Struct, frozen=True):
    """A linear axis from *low* to *high*, with a little room at both ends."""

    low: float
    high: float
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """Where *value* lies, 0 to 100; what is outside lies on the edge."""
        return round(min(max((value - self.low) / (self.high - self.low), 0.0), 1.0) * 100, 2)


def axis(values: Iterable[float], *, scale: float = 1.0, room: float = 0.08) -> Axis:
    """
    An axis that shows all finite *values* and three to seven round numbers.

    Args:
        scale: what a value is divided by before it is written at a tick.
        room: added at both ends, as a fraction of the range.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    # Values that are all the same, or nearly, would otherwise fill the axis with rounding errors.
    spread = max(high - low, abs(high) * 0.01, 1e-12)
    middle = (low + high) / 2
    low, high = middle - spread * (0.5 + room), middle + spread * (0.5 + room)
    step = _round_step((high - low) / scale / 4) * scale
    first = math.ceil(low / step)
    texts = [(number * step, number * step / scale) for number in range(first, math.floor(high / step) + 1)]
    digits = max(0, -math.floor(math.log10(step / scale) + 1e-9))
    ticks = tuple(Tick(round((value - low) / (high - low) * 100, 2), f"{shown:.{digits}f}") for value, shown in texts)
    return Axis(low, high, ticks)


def _round_step(about: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(about))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= about * 0.999)


class Strip(msgspec.Struct, frozen=True):
    """A relative change held against its limit, both as positions; 50 is no change."""

    change: float
    low_limit: float
    high_limit: float
    low: float | None = None
    """Of the confidence interval."""
    high: float | None = None
    clipped: bool = False
    """Whether the change lies beyond the edge."""


def strip(change: float, limit: float, interval: tuple[float, float] | None = None) -> Strip | None:
    """
    A strip that reaches twice as far as the limit, and at least a percent to each side.

    Returns:
        None for a change that is not finite.
    """
    if not math.isfinite(change):
        return None
    reach = max(2 * limit, 0.01, min(abs(change), 3 * limit) * 1.15)

    def at(value: float) -> float:
        return round(50 + min(max(value / reach, -1.0), 1.0) * 48, 2)

    return Strip(
        change=at(change),
        low_limit=at(-limit),
        high_limit=at(limit),
        low=at(interval[0]) if interval else None,
        high=at(interval[1]) if interval else None,
        clipped=abs(change) > reach,
    )


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a scatter: a value per process, their median, and the interval of their mean."""

    name: str
    kind: str
    """`baseline`, `now` or `published`."""
    points: tuple[Tick, ...]
    """With the value as text."""
    median: float | None = None
    low: float | None = None
    high: float | None = None
    told: str = ""
    """The median, and the interval if there is one."""


def lane(name: str, kind: str, values: Sequence[float], on: Axis, *, form: str, scale: float = 1.0) -> Lane:
    """
    Args:
        form: how a value is written, as `{:.2f}`.
        scale: what a value is divided by before it is written.
    """
    middle = statistics.median(values)
    told = form.format(middle / scale)
    bounds = mean_interval(values)
    if bounds is not None:
        low, high = (form.format(bound / scale) for bound in bounds)
        told += f" ({low} to {high})"
    return Lane(
        name=name,
        kind=kind,
        points=tuple(Tick(on.at(value), form.format(value / scale)) for value in values),
        median=on.at(middle),
        low=on.at(bounds[0]) if bounds else None,
        high=on.at(bounds[1]) if bounds else None,
        told=told,
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the mean by Student's t; None below three values, where it says nothing."""
    if len(values) < 3:
        return None
    from scipy.special import stdtrit

    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.975)) * error
    mean = statistics.fmean(values)
    return mean - reach, mean + reach


def sparkline(values: Sequence[float | None]) -> tuple[tuple[tuple[float, float], ...], ...]:
    """
    Stretches of points in a box of 100 by 20, a missing value between each two; none below two values.

    The box is at least 4 % of the largest value high, so that noise looks like noise.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < 2:
        return ()
    middle = (min(known) + max(known)) / 2
    height = max(max(known) - min(known), abs(max(known)) * 0.04) or 1.0
    stretches: list[list[tuple[float, float]]] = [[]]
    for number, value in enumerate(values):
        if value is None or not math.isfinite(value):
            stretches.append([])
        else:
            x = 2 + 96 * number / (len(values) - 1)
            stretches[-1].append((round(x, 2), round(10 - (value - middle) / height * 16, 2)))
    return tuple(tuple(points) for points in stretches if points)
