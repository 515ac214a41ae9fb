"""
Whether a process measured what it should have: the evidence that it read beside its figures.

A process that is found invalid is measured again, and never feeds a verdict or a baseline.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_llmbench.schema.measurement import Measurement, Process, Round

__all__ = [
    "HELD_BACK",
    "LARGEST_SHARE",
    "LARGEST_START",
    "canary_change",
    "held_back",
    "recompilations",
    "same_cards",
    "why_invalid",
]

HELD_BACK = 0.2
"""Of the measured rounds, from which on a card's own quality shows in its speed."""

LARGEST_SHARE = 0.01
"""Of the measured rounds, in which the GPU may have been slowed down for its temperature."""
LARGEST_START = 1.5
"""So many times as long as the others may the first of equal rounds take."""
_EQUAL_WORK = 0.1
"""Rounds whose tokens differ by no more than this do the same work."""


def why_invalid(process: Process, *, shared: bool = False, on_gpu: bool = True) -> str | None:
    """
    One sentence, or None for a process that may be trusted as far as its evidence goes.

    Args:
        shared: others are always on the GPU, as where it drives a screen, and do not count.
        on_gpu: whether rounds of the same work take the same time; on a CPU that others share they do not.

    A GPU held back by its power limit is valid: under dense work that is how it runs. So is an
    allocator that had to give memory back, which on a card this full is part of the row. What could
    not be read says nothing.
    """
    evidence = process.evidence
    if process.outcome != "ok":
        return None
    if not shared and (others := max(evidence.foreign_processes or (0,))):
        return f"{others} other process{'es' if others > 1 else ''} used the GPU at the same time"
    if (braked := max(evidence.hardware_slowdown_seconds or (0.0,))) > 0:
        return f"the hardware slowed the GPU down for {braked:.3g} s of the measured rounds"
    seconds = sum(done.seconds for done in process.rounds)
    if (hot := max(evidence.thermal_slowdown_seconds or (0.0,))) > LARGEST_SHARE * seconds:
        return f"the GPU was slowed down for its temperature for {hot:.3g} s of {seconds:.3g} s"
    return _never_steady(process.rounds) if on_gpu else None


def canary_change(then: Measurement, now: Measurement) -> float | None:
    """
    By which fraction a GPU itself is slower (below 0) or faster in *now*: the canary, of any GPU, that fell most.

    None where either side has none.
    """
    changes = []
    for name in ("canary_flops_per_second", "canary_copy_bytes_per_second"):
        before, after = _typical(then, name), _typical(now, name)
        changes += [later / earlier - 1 for earlier, later in zip(before, after, strict=False)]
    return min(changes, default=None)


def held_back(measurement: Measurement) -> bool:
    """Whether the power limit held a GPU's clocks down for a good part of the rounds: `HELD_BACK` of them."""
    for process in measurement.processes:
        seconds = sum(done.seconds for done in process.rounds)
        if max(process.evidence.power_cap_seconds or (0.0,)) > HELD_BACK * seconds:
            return True
    return False


def same_cards(then: Measurement, now: Measurement) -> bool:
    """Whether both are known to have been measured on the same GPUs, all their processes."""
    cards = {process.evidence.cards for side in (then, now) for process in side.processes if process.outcome == "ok"}
    return len(cards) == 1 and None not in cards


def recompilations(measurement: Measurement) -> int | None:
    """Graphs that were compiled in the rounds of a process, the most of any; None where that is not known."""
    found = [process.evidence.recompilations for process in measurement.processes if process.outcome == "ok"]
    return max((count for count in found if count is not None), default=None)


def _typical(measurement: Measurement, name: str) -> tuple[float, ...]:
    """Of each GPU, the median over the processes; empty where none has it."""
    found = [getattr(process.evidence, name) for process in measurement.processes if process.outcome == "ok"]
    return tuple(map(statistics.median, zip(*filter(None, found), strict=False)))


def _never_steady(rounds: Sequence[Round]) -> str | None:
    """Two equal rounds cannot tell which of them is the odd one; without tokens none is known to be equal."""
    work = [done.tokens for done in rounds]
    if len(rounds) < 3 or not min(work) or max(work) > min(work) * (1 + _EQUAL_WORK):
        return None
    first, *others = (done.seconds for done in rounds)
    times = first / statistics.median(others)
    if times <= LARGEST_START:
        return None
    return f"the first of {len(rounds)} equal rounds took {times:.1f} times as long as the others: it was not warm yet"
