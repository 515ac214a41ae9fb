"""
What the rows of a whole run say together: which suspects stand, which moves are worth a line, and
whether everything moved at once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.metrics import METRICS

__all__ = ["FEWEST_ROWS", "Shift", "confirmed", "global_shift", "noteworthy", "p_value", "p_value_of_any_move"]

FEWEST_ROWS = 20
"""Of fewer rows a common shift cannot be told from the shifts of each."""


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


def p_value(verdict: RowVerdict) -> float | None:
    """Of the row being worse: the least of its speeds', times their number; None if no speed counted."""
    found = [metric.p_value for metric in verdict.metrics if metric.gates and metric.p_value is not None]
    return min(1.0, min(found) * len(found)) if found else None


def p_value_of_any_move(verdict: RowVerdict) -> float | None:
    """Of the row being worse or better, two-sided; None if no speed counted."""
    found = [metric.p_value for metric in verdict.metrics if metric.gates and metric.p_value is not None]
    return min(1.0, min(2 * min(p, 1 - p) for p in found) * len(found)) if found else None


def confirmed(p_values: Mapping[str, float], *, error: float = 0.01) -> frozenset[str]:
    """
    The suspects that stand, with a chance of *error* that any of them is a false alarm (Holm).

    Args:
        p_values: by suspect, each from processes on both sides that played no part in the suspicion.
            Where both stages share a side, all rows belong in here and not the suspects only.
    """
    standing: set[str] = set()
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[name] > error / (len(p_values) - rank):
            break
        standing.add(name)
    return frozenset(standing)


def noteworthy(p_values: Mapping[str, float], *, rate: float = 0.05) -> frozenset[str]:
    """The rows that a report may name, of which a share of *rate* is expected to be noise (Benjamini-Hochberg)."""
    ordered = sorted(p_values, key=p_values.__getitem__)
    last = max(
        (rank for rank, name in enumerate(ordered, start=1) if p_values[name] <= rate * rank / len(ordered)), default=0
    )
    return frozenset(ordered[:last])


def global_shift(verdicts: Iterable[RowVerdict], metric: str) -> Shift | None:
    """
    The move that all rows have in common, which is a finding of its own: a row may be unchanged by its own
    noise while every one of them is 1 % slower. None for fewer than `FEWEST_ROWS` rows with a change.
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
