"""Steps and creeps in a series of runs."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmbench.judge import history
from pytest_llmbench.judge.history import FEWEST, creep, steps

numbers = st.floats(-10, 10).map(lambda number: round(number, 3))


def noise(count: int, *, seed: int, level: float = 0.0, sd: float = 0.003) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(level, sd) for _ in range(count)]


def energy(values: list[float], index: int) -> float:
    """By its definition."""
    left, right = values[:index], values[index:]
    between = sum(abs(x - y) for x in left for y in right) / (len(left) * len(right))
    within = [
        sum(abs(x - y) for x, y in itertools.combinations(side, 2)) / (len(side) * (len(side) - 1) / 2)
        for side in (left, right)
    ]
    return len(left) * len(right) / len(values) * (2 * between - sum(within))


@given(st.lists(numbers, min_size=2 * FEWEST, max_size=20))
def test_a_series_divides_where_the_energy_distance_is_largest(values: list[float]) -> None:
    best = max(energy(values, index) for index in range(FEWEST, len(values) - FEWEST + 1))

    assert energy(values, history._best_division(values)) == pytest.approx(best, abs=1e-6)


def test_a_level_that_rises_and_stays_is_found_where_it_rose() -> None:
    (step,) = steps([*noise(40, seed=1), *noise(10, seed=2, level=0.01)], smallest=0.003)

    assert step.at == 40
    assert step.effect == pytest.approx(0.01, abs=0.003)


def test_a_single_bad_night_is_no_step() -> None:
    assert steps([*noise(20, seed=1), 0.05, *noise(20, seed=3)], smallest=0.003) == ()


def test_a_step_up_and_down_again_is_two() -> None:
    series = [*noise(20, seed=1), *noise(20, seed=2, level=0.02), *noise(20, seed=5)]

    assert [step.at for step in steps(series, smallest=0.003)] == [20, 40]


def test_what_is_smaller_than_matters_is_not_told() -> None:
    series = [*noise(40, seed=1, sd=0.0001), *noise(40, seed=2, sd=0.0001, level=0.002)]

    assert steps(series, smallest=0.003) == ()
    assert len(steps(series, smallest=0.001)) == 1


def test_a_constant_series_has_no_step() -> None:
    assert steps([1.0] * 50, smallest=0.0) == ()


def test_an_exact_count_that_changes_is_a_step() -> None:
    assert [step.at for step in steps([1.0] * 5 + [2.0] * 5, smallest=0.1)] == [5]


@pytest.mark.parametrize("count", range(2 * FEWEST))
def test_too_few_points_have_none(count: int) -> None:
    assert steps([0.0, 0.0, 0.0, 9.0, 9.0][:count], smallest=0.0) == ()


def test_one_flat_series_in_a_hundred_or_so_shows_a_step() -> None:
    found = sum(bool(steps(noise(60, seed=seed), smallest=0.003)) for seed in range(300))

    assert found <= 9  # 1 % by simulation; above 9 of 300 has a chance of 0.001


def test_a_creep_is_the_end_against_the_beginning() -> None:
    series = [value + index * 0.0003 for index, value in enumerate(noise(60, seed=1))]

    slow = creep(series, smallest=0.003)

    assert slow is not None
    assert slow.effect == pytest.approx(0.0135, abs=0.003)


def test_a_flat_series_does_not_creep() -> None:
    assert creep(noise(60, seed=1), smallest=0.003) is None


def test_a_steps_chance_is_that_of_students_t_over_its_two_levels() -> None:
    series = [9.0, *noise(10, seed=1, sd=1.0), *noise(7, seed=2, level=30.0, sd=1.0)]

    [step] = steps(series, smallest=0.0)

    assert step.effect == pytest.approx(statistics.fmean(series[step.at :]) - statistics.fmean(series[: step.at]))
    assert step.p_value == pytest.approx(students_t(series[: step.at], series[step.at :]), rel=1e-6)


def test_a_creeps_chance_is_that_of_students_t_over_the_two_quarters() -> None:
    series = [*noise(4, seed=1, sd=1.0), *[5.0] * 8, *noise(4, seed=2, level=8.0, sd=1.0)]

    found = creep(series, smallest=0.0, max_p=0.5)

    assert found is not None
    assert found.effect == pytest.approx(statistics.fmean(series[-4:]) - statistics.fmean(series[:4]))
    assert found.p_value == pytest.approx(students_t(series[:4], series[-4:]), rel=1e-6)


def students_t(before: list[float], after: list[float]) -> float:
    from scipy import stats

    return float(stats.ttest_ind(before, after).pvalue)


def test_a_step_that_is_not_sure_is_dropped_and_a_surer_one_behind_it_stays() -> None:
    weak_then_strong = [1, -1] * 3 + [3.5, 1.5] * 3 + [32.5, 30.5] * 6

    [step] = steps(weak_then_strong, smallest=0.5)

    assert step.at == 12
    assert step.effect == pytest.approx(31.5 - 1.25)


def test_a_step_that_is_too_small_is_dropped_and_a_larger_one_behind_it_stays() -> None:
    small_then_large = [0.0, 0.001] * 5 + [0.1, 0.101] * 5 + [3.1, 3.101] * 5

    assert [step.at for step in steps(small_then_large, smallest=0.2)] == [20]
    assert [step.at for step in steps(small_then_large, smallest=0.05)] == [10, 20]


def test_a_step_down_is_below_zero() -> None:
    [step] = steps([5.0, 5.1] * 4 + [1.0, 1.1] * 4, smallest=0.5)

    assert step.at == 8
    assert step.effect == pytest.approx(-4.0)


@pytest.mark.parametrize(("count", "seen"), [(11, False), (12, True)])
def test_a_creep_takes_a_quarter_of_three_points(count: int, *, seen: bool) -> None:
    series = [0.0] * 6 + [9.0] * (count - 6)

    assert (creep(series, smallest=1.0) is not None) == seen


def test_a_step_that_another_hides_is_found_if_both_are_sure_together() -> None:
    """Half of the points are high: no single division of the whole series is sure by itself."""
    low, high, again = (
        [0.03, 0.38, -0.28, 0.3, -0.08, -0.08],
        [1.57, 1.05, 0.99, 1.22, 1.34, 0.99, 0.18],
        [-0.29, -0.11, -0.13, -0.4, -0.45],
    )

    assert [step.at for step in steps([*low, *high, *again], smallest=0.1)] == [6, 13]
