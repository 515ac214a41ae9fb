"""
A measured row as a benchmark of pytest-benchmark, so that its table, its files and its comparisons have it too.

The rounds have been timed already, in another process: they are given to pytest-benchmark by a timer
that tells their length, which is the one way in that it offers.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from itertools import accumulate, chain

import pytest

from pytest_llmbench.reports.export.pytest_benchmark import seconds_per_sample
from pytest_llmbench.reports.export.values import series
from pytest_llmbench.store.results import Result

__all__ = ["add_benchmark"]


def add_benchmark(request: pytest.FixtureRequest, result: Result) -> None:
    """
    Add the row to the benchmarks of this run, with seconds per sample as its times.

    A row without a measured round is left out. Of several rows of one test the first counts, since a
    test has one benchmark.
    """
    rounds = seconds_per_sample(result)
    if not rounds or "benchmark" in request.fixturenames:
        return
    timer = _replaying(rounds)
    request.node.add_marker(pytest.mark.benchmark(timer=timer, group=result.table))
    benchmark = request.getfixturevalue("benchmark")
    benchmark.extra_info.update(
        verdict=result.told,
        outcome=result.measurement.outcome,
        **{one.name: statistics.median(one.values) for one in series(result)},
    )
    benchmark.pedantic(lambda: None, rounds=len(rounds))


def _replaying(seconds: list[float]) -> Callable[[], float]:
    """A clock that is asked twice a round, at its beginning and at its end, and once more by nobody."""
    ends = list(accumulate(seconds))
    readings: Iterator[float] = chain.from_iterable(zip([0.0, *ends[:-1]], ends, strict=True))

    return lambda: next(readings)
