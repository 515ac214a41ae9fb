"""
Whether a process measured what it should have: the evidence that it read beside its figures.

A process that is found invalid is measured again, and never feeds a verdict or a baseline.
"""

from __future__ import annotations

from pytest_llmbench.measurement import Process

__all__ = ["LARGEST_SHARE", "why_invalid"]

LARGEST_SHARE = 0.01
"""Of the measured rounds, in which the GPU may have been slowed down for its temperature."""


def why_invalid(process: Process, *, shared: bool = False) -> str | None:
    """
    One sentence, or None for a process that may be trusted as far as its evidence goes.

    Args:
        shared: others are always on the GPU, as where it drives a screen, and do not count.

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
    return None
