"""The move that all rows of a run have in common."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.metrics import METRICS

__all__ = ["FEWEST_ROWS", "Shift", "global_shift"]

FEWEST_ROWS = 20
"""Number of rows below which a common shift cannot be told from the shifts of each."""


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """How far a metric moved in the run as a whole."""

    metric: str
    change: float
    """Median over the rows, relative to their baselines."""
    interval: tuple[float, float]
    """95 % confidence interval of the median, free of any distribution."""
    rows: int

    @property
    def matters(self) -> bool:
        """Whether the whole interval is on one side, and the median is at least the metric's smallest effect."""
        low, high = self.interval
        return not low <= 0 <= high and abs(self.change) >= METRICS[self.metric].smallest_effect


def global_shift(verdicts: Iterable[RowVerdict], metric: str) -> Shift | None:
    """
    Find the median move of all rows, or None for fewer than `FEWEST_ROWS` rows with a change.

    It is a finding of its own: each row may be unchanged by its noise while all of them are 1 % slower.
    """
    found = (one for verdict in verdicts for one in verdict.metrics if one.metric == metric)
    logs = sorted(math.log1p(one.change) for one in found if one.change is not None and one.change > -1)
    if len(logs) < FEWEST_ROWS:
        return None
    # Order statistics by the sign test, whose counts are nearly normal for so many rows.
    below = max(0, math.floor((len(logs) - 1.96 * math.sqrt(len(logs))) / 2))
    return Shift(
        metric=metric,
        change=math.expm1(statistics.median(logs)),
        interval=(math.expm1(logs[below]), math.expm1(logs[-1 - below])),
        rows=len(logs),
    )
