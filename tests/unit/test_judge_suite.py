"""The move that all rows of a run have in common."""

from __future__ import annotations

import random

import pytest

from pytest_llmbench.judge.suite import FEWEST_ROWS, global_shift
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict

BUSY, SPEED = "device_busy_seconds_per_sample", "samples_per_second"


def row(*metrics: MetricVerdict) -> RowVerdict:
    return RowVerdict(status="unchanged", metrics=metrics, reason="r")


def speed(metric: str, change: float) -> MetricVerdict:
    return MetricVerdict(metric=metric, status="unchanged", change=change, gates=True, reason="r")


def rows(*changes: float) -> list[RowVerdict]:
    return [row(speed(BUSY, change)) for change in changes]


def test_a_shift_of_all_rows_is_found_though_each_is_within_its_noise() -> None:
    rng = random.Random(1)

    shift = global_shift(rows(*(rng.gauss(0.01, 0.005) for _ in range(90))), BUSY)

    assert shift is not None
    assert shift.matters
    assert shift.change == pytest.approx(0.01, abs=0.002)
    assert shift.rows == 90


def test_one_row_that_moved_far_is_no_shift() -> None:
    shift = global_shift(rows(*[0.001, -0.001] * 20, 3.0), BUSY)

    assert shift is not None
    assert not shift.matters


def test_a_shift_that_is_too_small_does_not_matter() -> None:
    shift = global_shift(rows(*[0.001] * 30), BUSY)

    assert shift is not None
    assert shift.change == pytest.approx(0.001)
    assert not shift.matters


def test_few_rows_have_no_common_shift() -> None:
    assert global_shift(rows(*[0.01] * (FEWEST_ROWS - 1)), BUSY) is None
    assert global_shift([*rows(*[0.01] * (FEWEST_ROWS - 1)), row(speed(SPEED, 0.01))], BUSY) is None


def test_the_interval_of_a_shift_holds_the_truth_in_95_of_100_runs() -> None:
    from scipy import stats

    rng = random.Random(9)
    held = 0
    for _ in range(600):
        shift = global_shift(rows(*(rng.gauss(0, 0.01) for _ in range(25))), BUSY)
        assert shift is not None
        held += shift.interval[0] <= 0 <= shift.interval[1]
    assert stats.binomtest(held, 600, 0.95, alternative="less").pvalue > 1e-3
