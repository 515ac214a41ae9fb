"""
The verdict on a speed: a metric that is judged by its noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pytest_llmbench.judge.decision import PAIRS, Decision, Design, decide, difference, more_processes, noticeable
from pytest_llmbench.judge.statistics import Estimate, Spread, chance_of_more, interval, threshold
from pytest_llmbench.judge.verdict import Status
from pytest_llmbench.schema.metrics import Metric, Noise
from pytest_llmbench.schema.units import percent

__all__ = ["SEES", "Speed", "judge_speed"]

SEES = 0.03
"""
A speed of which these processes would miss a change of this size is shown, and does not count, unless it looks
worse all the same.
"""


class Speed(NamedTuple):
    """What became of a speed; fields as in `MetricVerdict`."""

    status: Status
    gates: bool
    change: float
    limit: float
    interval: tuple[float, float]
    detectable: float
    p_value: float
    processes_needed: int | None
    reason: str


def judge_speed(
    metric: Metric, before: Sequence[float], now: Sequence[float], noise: Noise, *, design: Design, alpha: float
) -> Speed:
    """
    Hold the processes of one side against those of the other.

    Args:
        before: natural logarithm of the metric, one per process, at least one; so *now*.
        alpha: chance of calling it worse where it is not; as much again for better.
    """
    found = difference(design, before, now, noise)
    sign = -1 if metric.better == "higher" else 1
    harm = found._replace(effect=sign * found.effect)
    decision = decide(harm, metric, alpha)
    detectable = abs(_relative(sign * noticeable(harm)))
    tells = decision.status in ("regressed", "improved") or decision.suspect
    gates = tells or noticeable(harm) <= math.log1p(SEES)
    needed, how = None, ""
    if decision.status == "undecided":
        spread = design.spread(before, now, noise)
        needed, how = _needed(design, spread, harm, metric, alpha, before=len(before), now=len(now))
    low, high = map(_relative, interval(found))
    least = max(math.log1p(metric.smallest_effect), threshold(harm, alpha))
    return Speed(
        status=decision.status,
        gates=gates,
        change=_relative(found.effect),
        limit=abs(_relative(math.copysign(least, found.effect))),
        interval=(low, high),
        detectable=detectable,
        p_value=chance_of_more(harm),
        processes_needed=needed,
        reason=_reason(decision, metric, detectable, how, gates=gates, p_value=chance_of_more(harm)),
    )


def _relative(log: float) -> float:
    """The change by such a difference of logarithms; finite, so that it can be stored."""
    return math.expm1(min(log, 700.0))


def _needed(
    design: Design, spread: Spread, harm: Estimate, metric: Metric, alpha: float, *, before: int, now: int
) -> tuple[int | None, str]:
    """How many processes would settle it, and that in words."""
    needed = more_processes(design, spread, harm, metric, alpha, before=before, now=now)
    if needed is not None:
        return needed, f"{needed} {'pairs' if design.pairs else 'processes'} would"
    if not design.pairs:
        needed = more_processes(PAIRS, spread, harm, metric, alpha, before=0, now=0)
        if needed is not None:
            told = f"{needed} pairs of processes" if needed > 1 else "a pair of processes"
            return needed, f"no number of processes would against this baseline, {told} in turn (llmbench ab) would"
    return None, "no reasonable number of processes would"


def _reason(decision: Decision, metric: Metric, detectable: float, how: str, *, gates: bool, p_value: float) -> str:
    if decision.status in ("regressed", "improved"):
        return "more than noise explains"
    if not gates:
        return f"advisory: too noisy to see {SEES * 100:g} %, would notice {percent(detectable).lstrip('+')}"
    if decision.status == "unchanged":
        return f"surely within {metric.margin * 100:g} %"
    if decision.suspect:
        return f"may be worse, these processes cannot tell it from noise (p {p_value:.2g}); {how}"
    return f"these processes cannot tell whether it moved; {how}"
