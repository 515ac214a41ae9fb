"""
What a difference and its error decide about a speed: worse, better, the same, or not known yet.

How the two sides were measured is a `Design`: against a stored session, or in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from pytest_llmbench.judge.statistics import (
    Estimate,
    Spread,
    chance_of_more,
    detectable,
    error_between_sessions,
    error_of_pairs,
    interval,
    is_equivalent,
    spread_of_pairs,
    spread_of_sessions,
    threshold,
)
from pytest_llmbench.schema.metrics import Metric, Noise

__all__ = [
    "ALPHA",
    "LOOKS",
    "MOST_PROCESSES",
    "PAIRS",
    "ROW_ERROR",
    "SESSIONS",
    "Decision",
    "Design",
    "decide",
    "difference",
    "more_processes",
    "noticeable",
]

ROW_ERROR = 0.01 / 100
"""Chance of calling a row worse that is not: one false alarm in a hundred nights of a hundred rows."""

LOOKS = 2
"""Judgements of a suspect row after its screening, at most."""

ALPHA = ROW_ERROR / LOOKS
"""Chance of a false alarm at one look at one row, whichever rows are measured beside it."""

SUSPICIOUS = 0.05
"""A move for the worse is suspect if noise alone would look so bad less often than this."""

POWER = 0.9
"""Chance of noticing what is called detectable."""

SPARE = 1.25
"""By so much the error is taken too large when processes are asked for, that they settle it more often than not."""

MOST_PROCESSES = 64
"""More than anybody would wait for: what needs them cannot be settled."""


class Design(NamedTuple):
    """How the processes of the two sides belong together, and what that makes of their noise."""

    spread: Callable[[Sequence[float], Sequence[float], Noise], Spread]
    error: Callable[[Spread, int, int], tuple[float, float]]
    """Standard error and degrees of freedom for so many processes before and now."""
    pairs: bool


SESSIONS = Design(spread_of_sessions, error_between_sessions, pairs=False)
"""A stored baseline, and what is measured now, hours or days later."""
PAIRS = Design(spread_of_pairs, lambda spread, _, now: error_of_pairs(spread, now), pairs=True)
"""Processes of both sides in turn, in one session."""


class Decision(NamedTuple):
    """The status of one difference, and whether an undecided one leans to the worse."""

    status: Literal["unchanged", "regressed", "improved", "undecided"]
    suspect: bool = False


def difference(design: Design, before: Sequence[float], now: Sequence[float], noise: Noise) -> Estimate:
    """
    Of two sides, now less before.

    Args:
        before: one logarithm per process, at least one; so *now*, and as many where they are pairs.
        noise: what is known of the case beyond these processes.
    """
    effect = math.fsum(now) / len(now) - math.fsum(before) / len(before)
    return Estimate(effect, *design.error(design.spread(before, now, noise), len(before), len(now)))


def decide(harm: Estimate, metric: Metric, alpha: float) -> Decision:
    """
    The verdict on a difference of logarithms that is positive for the worse.

    Regressed and improved take an effect that noise has not once in 1/*alpha* cases, and that
    matters. What leans to the worse is undecided even if it is small: nobody may miss it for its
    size. Unchanged is what is shown to have moved by less than the metric's margin.
    """
    smallest = math.log1p(metric.smallest_effect)
    if abs(harm.effect) >= smallest and threshold(harm, alpha) <= abs(harm.effect):
        return Decision("regressed" if harm.effect > 0 else "improved")
    could_matter = interval(harm)[1] >= smallest
    if harm.effect >= smallest / 2 and could_matter and chance_of_more(harm) <= SUSPICIOUS:
        return Decision("undecided", suspect=True)
    if is_equivalent(harm, math.log1p(metric.margin)):
        return Decision("unchanged")
    return Decision("undecided")


def noticeable(harm: Estimate) -> float:
    """The least true difference for the worse that is at least suspect in nine of ten cases."""
    return detectable(harm, alpha=SUSPICIOUS, power=POWER)


def more_processes(
    design: Design, spread: Spread, harm: Estimate, metric: Metric, alpha: float, *, before: int, now: int
) -> int | None:
    """
    The least number of processes now, or of pairs, at which the difference would be settled if it stayed.

    Args:
        before, now: processes of the two sides so far; 0 for pairs that would all be new.

    Returns:
        None if `MOST_PROCESSES` would not do.
    """
    for count in range(now + 1, MOST_PROCESSES + 1):
        more = count - max(now, 1)
        error, df = design.error(spread._replace(process_df=spread.process_df + more), before, count)
        if decide(Estimate(harm.effect, SPARE * error, df), metric, alpha).status != "undecided":
            return count
    return None
