"""
What a series of runs says that no two of them do: steps, and a creep too slow for any gate.

Steps are found by E-divisive means (Matteson and James, arXiv 1306.4933) with Student's t in place
of permutations and a second, stricter pass (Fleming et al., "Hunter", arXiv 2301.03034), so that one
series always gives one answer. Pure Python: a series has a few hundred points at most.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from pytest_llmbench.judge.noise import sum_of_squares

__all__ = ["FEWEST", "Creep", "Step", "creep", "steps"]

FEWEST = 3
"""Points on either side of a step, at least: fewer have no spread to speak of."""

MAX_P = 0.001
FIRST_PASS = 10
"""A step may be so many times less certain when it is found than when all are held against each other."""


class Step(NamedTuple):
    """A level that changed and stayed."""

    at: int
    """The first point of the new level."""
    effect: float
    """Mean after less mean before, of the two neighbouring levels."""
    p_value: float
    """Two-sided, by Student's t over the two levels."""


class Creep(NamedTuple):
    """The end of a series against its beginning."""

    effect: float
    """Mean of the last quarter less mean of the first."""
    p_value: float


def steps(series: Sequence[float], *, smallest: float, max_p: float = MAX_P) -> tuple[Step, ...]:
    """
    Where the level of a series changed, by *smallest* or more, in the order of the points.

    Args:
        series: in the order of time; logarithms, if a change is to be relative.
    """
    found = sorted(_divided(series, 0, len(series), FIRST_PASS * max_p))
    while found:
        bounds = [0, *found, len(series)]
        levels = [series[low:high] for low, high in itertools.pairwise(bounds)]
        told = [Step(at, *_difference(*pair)) for at, pair in zip(found, itertools.pairwise(levels), strict=True)]
        weakest = max(told, key=lambda step: step.p_value)
        if weakest.p_value < max_p:
            weakest = min(told, key=lambda step: abs(step.effect))
            if abs(weakest.effect) >= smallest:
                return tuple(told)
        found.remove(weakest.at)
    return ()


def creep(series: Sequence[float], *, smallest: float, max_p: float = MAX_P) -> Creep | None:
    """How far the end stands from the beginning, if that is surely *smallest* or more; None if not, or of few points."""
    quarter = len(series) // 4
    if quarter < FEWEST:
        return None
    effect, p_value = _difference(series[:quarter], series[-quarter:])
    return Creep(effect, p_value) if p_value < max_p and abs(effect) >= smallest else None


def _divided(series: Sequence[float], start: int, end: int, max_p: float) -> list[int]:
    """Indices at which the stretch divides, and its parts again, as long as a division is likely enough."""
    if end - start < 2 * FEWEST:
        return []
    at = start + _best_division(series[start:end])
    _, p_value = _difference(series[start:at], series[at:end])
    if p_value >= max_p:
        return []
    return [at, *_divided(series, start, at, max_p), *_divided(series, at, end, max_p)]


def _best_division(values: Sequence[float]) -> int:
    """
    Index that makes the two sides most unlike each other by energy distance.

    That is m n / (m + n) (2 E|X - Y| - E|X - X'| - E|Y - Y'|), whose three sums of distances are
    carried on from one index to the next.
    """
    count = len(values)
    to_left = [sum(abs(value - other) for other in values[:index]) for index, value in enumerate(values)]
    to_right = [sum(abs(value - other) for other in values[index:]) for index, value in enumerate(values)]
    within_left, between = 0.0, 0.0
    within_right = sum(to_left)
    best, best_at = -math.inf, FEWEST
    for index in range(count):
        # This value moves from the right side to the left.
        within_left += to_left[index]
        within_right -= to_right[index]
        between += to_right[index] - to_left[index]
        left, right = index + 1, count - index - 1
        if left < FEWEST or right < FEWEST:
            continue
        unlike = 2 * between / (left * right)
        unlike -= within_left / (left * (left - 1) / 2) + within_right / (right * (right - 1) / 2)
        if (quality := left * right / count * unlike) > best:
            best, best_at = quality, left
    return best_at


def _difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Of the means, and its p-value by Student's t of equal variances."""
    from scipy.special import stdtr

    effect = math.fsum(after) / len(after) - math.fsum(before) / len(before)
    df = len(before) + len(after) - 2
    variance = (sum_of_squares(before) + sum_of_squares(after)) / df
    error = math.sqrt(variance * (1 / len(before) + 1 / len(after)))
    if error == 0:
        return effect, 0.0 if effect else 1.0
    return effect, float(2 * stdtr(df, -abs(effect) / error))
