"""
What the processes of two sides say about the difference between them: estimate, interval, chance.

Pure functions over logarithms: a difference of 0.02 is a change of about 2 %. The process is the
unit; the steps within one share what made it fast or slow, and count once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from pytest_llmbench.judge.noise import sum_of_squares
from pytest_llmbench.schema.metrics import Noise

__all__ = [
    "FEWEST_SEEN",
    "Estimate",
    "Spread",
    "chance_of_more",
    "detectable",
    "error_between_sessions",
    "error_of_pairs",
    "interval",
    "is_equivalent",
    "quantile",
    "spread_of_pairs",
    "spread_of_sessions",
    "threshold",
]


FEWEST_SEEN = 4
"""Fewer degrees of freedom than these cannot stand alone: Student's t would exclude nothing."""


class Spread(NamedTuple):
    """What is known of the noise after the processes at hand have been seen."""

    process_variance: float
    process_df: float
    session_variance: float
    session_df: float


class Estimate(NamedTuple):
    """A difference of two logarithms, now less before, and how well it is known."""

    effect: float
    standard_error: float
    """Above 0."""
    df: float
    """Degrees of freedom of the standard error."""


def spread_of_sessions(before: Sequence[float], now: Sequence[float], noise: Noise) -> Spread:
    """The noise, its process part moderated by what the processes of both sides show."""
    return _moderated(noise, before, now)


def spread_of_pairs(before: Sequence[float], now: Sequence[float], noise: Noise) -> Spread:
    """As `spread_of_sessions`, from the differences within pairs: each has the variance of two processes."""
    return _moderated(noise, [(after - earlier) / math.sqrt(2) for earlier, after in zip(before, now, strict=True)])


def _moderated(noise: Noise, *groups: Sequence[float]) -> Spread:
    """
    The known variance and the one seen, weighted by their degrees of freedom.

    Where what is seen is too large to be what is known, that is of another case, and only what is seen counts.
    """
    squares, seen = math.fsum(map(sum_of_squares, groups)), sum(len(group) - 1 for group in groups)
    known = noise.process_sd**2
    df = noise.process_df + seen
    variance = (known * noise.process_df + squares) / df
    if seen and squares / seen > known * _largest_ratio(seen, noise.process_df):
        variance, df = squares / seen, seen if seen >= FEWEST_SEEN else df
    return Spread(variance, df, noise.session_sd**2, noise.session_df)


@lru_cache(maxsize=4096)
def _largest_ratio(seen: int, known: float) -> float:
    """Of two estimates of one variance, by their degrees of freedom, but once in a hundred times."""
    from scipy.special import fdtri

    return float(fdtri(seen, known, 0.99))


def error_between_sessions(spread: Spread, before: int, now: int) -> tuple[float, float]:
    """
    Standard error, and its degrees of freedom, of a difference between two sessions of so many processes.

    Processes make one part of it smaller, on the side where they are; the difference between two
    sessions they do not.
    """
    of_processes = spread.process_variance * (1 / before + 1 / now)
    of_sessions = 2 * spread.session_variance
    # Satterthwaite: the degrees of freedom of a sum of two variances.
    weight = of_processes**2 / spread.process_df + of_sessions**2 / spread.session_df
    return math.sqrt(of_processes + of_sessions), (of_processes + of_sessions) ** 2 / weight


def error_of_pairs(spread: Spread, pairs: int) -> tuple[float, float]:
    """Standard error, and its degrees of freedom, of the mean difference within so many pairs."""
    return math.sqrt(2 * spread.process_variance / pairs), spread.process_df


def interval(estimate: Estimate, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided confidence interval of the difference."""
    reach = quantile((1 + confidence) / 2, estimate.df) * estimate.standard_error
    return estimate.effect - reach, estimate.effect + reach


def chance_of_more(estimate: Estimate) -> float:
    """Chance of an estimate as high as this, or higher, where there is no difference."""
    from scipy.special import stdtr

    return float(stdtr(estimate.df, -estimate.effect / estimate.standard_error))


def is_equivalent(estimate: Estimate, margin: float, alpha: float = 0.05) -> bool:
    """Whether two one-sided tests say that the difference is less than *margin*, up and down."""
    low, high = interval(estimate, 1 - 2 * alpha)
    return -margin < low and high < margin


def threshold(estimate: Estimate, alpha: float) -> float:
    """The estimate from which on `chance_of_more` is at most *alpha*."""
    return quantile(1 - alpha, estimate.df) * estimate.standard_error


def detectable(estimate: Estimate, *, alpha: float, power: float) -> float:
    """
    The true difference at which a one-sided test at *alpha* rejects with chance *power*.

    The sum of two quantiles stands for the noncentral t; from 5 degrees of freedom on they agree within 5 %.
    """
    return (quantile(1 - alpha, estimate.df) + quantile(power, estimate.df)) * estimate.standard_error


@lru_cache(maxsize=4096)
def quantile(probability: float, df: float) -> float:
    """Of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))
