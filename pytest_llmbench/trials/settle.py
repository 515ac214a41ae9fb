"""
When a case is settled: how many pairs it gets, and which of its verdicts counts.

Pure, and a function of the pairs alone, so that a comparison that was broken off goes on as if it had not been.

1. `Plan.screen` pairs are judged. A row that is unchanged, or cannot be judged, is settled.
2. Every other one is a suspect, whatever moved: fresh pairs are judged without the first ones, which
   were chosen for looking bad. What noise leaves open, or what a speed alone has moved, gets them in the
   plan's looks; a count, memory or the arithmetic repeats itself or does not, and one fresh pair tells.
3. A suspect counts if the fresh pairs agree. Otherwise they have the last word.

Two pairs that fail settle the case: a process that fails twice fails. One that failed once is measured again.
A disturbed process was measured again within its pair already, see `Sides.pair`, and counts as one that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from pytest_llmbench.judge.looks import Plan
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.store.pair import Pair, Stage, merged

__all__ = ["DOUBTED", "Judge", "Settled", "Wanted", "settle", "so_far"]

Judge = Callable[[Measurement, Measurement], RowVerdict]

FAILED_ENOUGH = 2
DOUBTED = "the first pairs looked"
"""In the reason of a verdict that fresh pairs have overturned."""


class Wanted(NamedTuple):
    """Another pair is needed."""

    stage: Stage


class Settled(NamedTuple):
    """The case is over."""

    verdict: RowVerdict
    a: Measurement
    b: Measurement
    """The processes that the verdict is about."""


def settle(pairs: Sequence[Pair], plan: Plan, judge: Judge) -> Settled | Wanted:
    """
    What to do about a case of which these pairs were measured, in their order.

    Args:
        judge: B against A, by `judge_pair`.
    """
    first = _stage(pairs, "first", plan.screen, judge)
    if not isinstance(first, list):
        return first
    screening = _settled(first, judge)
    if not (screening.verdict.undecided or screening.verdict.status in ("regressed", "improved")) or not plan.looks:
        return screening
    wanted, looked = 0, screening
    for look in range(plan.looks):
        wanted += plan.fresh(look) if _by_noise(screening.verdict) else 1
        fresh = _stage(pairs, "fresh", wanted, judge)
        if not isinstance(fresh, list):
            return fresh
        looked = _settled(fresh, judge)
        if not looked.verdict.undecided:
            return _last_word(screening, looked, [*first, *fresh], judge)
    return _told(looked, f"by {wanted} fresh pairs")


def so_far(pairs: Sequence[Pair], judge: Judge) -> Settled | None:
    """What the pairs of a case say that is not settled; it counts as inconclusive. None without a good pair."""
    good = [pair for pair in pairs if pair.is_ok]
    if not good:
        return None
    found = _settled(good, judge)
    verdict = msgspec.structs.replace(
        found.verdict,
        status="inconclusive",
        reason=f"{found.verdict.status} so far ({found.verdict.reason}), and not measured to the end",
    )
    return found._replace(verdict=verdict)


def _stage(pairs: Sequence[Pair], stage: Stage, size: int, judge: Judge) -> list[Pair] | Settled | Wanted:
    """*size* good pairs of a stage, or what else there is to do."""
    own = [pair for pair in pairs if pair.stage == stage]
    failed = [pair for pair in own if not pair.is_ok]
    if any("unavailable" in pair.outcomes for pair in failed) or len(failed) >= FAILED_ENOUGH:
        return _settled(failed, judge)
    good = [pair for pair in own if pair.is_ok][:size]
    return good if len(good) == size else Wanted(stage)


def _settled(pairs: Sequence[Pair], judge: Judge) -> Settled:
    a, b = merged(pairs)
    return Settled(judge(a, b), a, b)


def _by_noise(verdict: RowVerdict) -> bool:
    """Whether it stands or falls with speeds, which other processes may not repeat."""
    moved = [one for one in verdict.metrics if one.gates and one.status == verdict.status]
    return verdict.undecided or all(one.p_value is not None for one in moved)


def _last_word(screening: Settled, fresh: Settled, pairs: Sequence[Pair], judge: Judge) -> Settled:
    before, count = screening.verdict.status, len(fresh.a.processes)
    if fresh.verdict.status == before and not _by_noise(screening.verdict):
        return _told(_settled(pairs, judge), f"confirmed by {count} fresh pair{'s' if count > 1 else ''}")
    if fresh.verdict.status in (before, "regressed", "improved") or screening.verdict.undecided:
        return _told(fresh, f"by {count} fresh pairs")
    return _told(fresh, f"{DOUBTED} {before}, {count} fresh ones do not")


def _told(settled: Settled, how: str) -> Settled:
    verdict = msgspec.structs.replace(settled.verdict, reason=f"{settled.verdict.reason}; {how}")
    return settled._replace(verdict=verdict)
