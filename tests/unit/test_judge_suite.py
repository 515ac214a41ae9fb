"""What the rows of a run say together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmbench.judge.suite import (
    FEWEST_ROWS,
    confirmed,
    global_shift,
    noteworthy,
    p_value,
    p_value_of_any_move,
)
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict

unhurried = settings(deadline=None)
"""A machine shared with other work is no fault of the code."""

BUSY, SPEED = "device_busy_seconds_per_sample", "samples_per_second"
chances = st.dictionaries(st.text(max_size=4), st.floats(0, 1), max_size=12)


def row(*metrics: MetricVerdict) -> RowVerdict:
    return RowVerdict(status="unchanged", metrics=metrics, reason="r")


def speed(metric: str, p: float | None, *, change: float | None = 0.0, gates: bool = True) -> MetricVerdict:
    return MetricVerdict(metric=metric, status="unchanged", change=change, p_value=p, gates=gates, reason="r")


def test_holm_spends_the_error_on_the_least_chance_first() -> None:
    assert confirmed({"a": 0.004, "b": 0.003, "c": 0.5}) == {"b", "a"}
    assert confirmed({"a": 0.006, "b": 0.003, "c": 0.5}) == {"b"}
    assert confirmed({"a": 0.001, "b": 0.004, "c": 0.5}, error=0.001) == set()


def test_benjamini_hochberg_agrees_with_scipy() -> None:
    from scipy import stats

    rng = random.Random(3)
    for _ in range(20):
        found = {str(number): rng.random() ** 3 for number in range(30)}
        adjusted = stats.false_discovery_control(list(found.values()))
        assert noteworthy(found) == {name for name, p in zip(found, adjusted, strict=True) if p <= 0.05}


@unhurried
@given(chances)
def test_what_is_confirmed_is_noteworthy(found: dict[str, float]) -> None:
    assert confirmed(found, error=0.05) <= noteworthy(found, rate=0.05)


def test_without_suspects_nothing_stands() -> None:
    assert confirmed({}) == noteworthy({}) == frozenset()


def test_nobody_is_confirmed_by_chance_more_often_than_in_a_hundredth_of_the_nights() -> None:
    from scipy import stats

    rng = random.Random(5)
    nights = 2000
    alarms = sum(bool(confirmed({str(number): rng.random() for number in range(10)})) for _ in range(nights))
    assert stats.binomtest(alarms, nights, 0.01, alternative="greater").pvalue > 1e-3


def test_a_row_is_as_unlikely_as_its_least_likely_speed_for_the_number_of_speeds() -> None:
    verdict = row(speed(SPEED, 0.2), speed(BUSY, 0.01), speed("load_seconds", None))

    assert p_value(verdict) == 0.02
    assert p_value_of_any_move(verdict) == 0.04


def test_a_speed_that_is_much_better_is_a_move_too() -> None:
    assert p_value(row(speed(BUSY, 0.999))) == 0.999
    assert p_value_of_any_move(row(speed(BUSY, 0.999))) == pytest.approx(0.002)


def test_a_speed_that_does_not_count_has_no_say() -> None:
    assert p_value(row(speed(SPEED, 0.001, gates=False))) is None
    assert p_value_of_any_move(row(speed(SPEED, None))) is None


def rows(*changes: float) -> list[RowVerdict]:
    return [row(speed(BUSY, 0.1, change=change)) for change in changes]


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
    assert global_shift([*rows(*[0.01] * (FEWEST_ROWS - 1)), row(speed(SPEED, 0.1, change=0.01))], BUSY) is None


def test_the_interval_of_a_shift_holds_the_truth_in_95_of_100_runs() -> None:
    from scipy import stats

    rng = random.Random(9)
    held = 0
    for _ in range(600):
        shift = global_shift(rows(*(rng.gauss(0, 0.01) for _ in range(25))), BUSY)
        assert shift is not None
        held += shift.interval[0] <= 0 <= shift.interval[1]
    assert stats.binomtest(held, 600, 0.95, alternative="less").pvalue > 1e-3
