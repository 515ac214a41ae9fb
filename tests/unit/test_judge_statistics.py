"""Estimates and their errors, beside scipy's own where there is one, and by seeded simulations."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmbench.judge.decision import PAIRS, SESSIONS, difference
from pytest_llmbench.judge.statistics import (
    Estimate,
    chance_of_more,
    detectable,
    interval,
    is_equivalent,
    threshold,
)
from pytest_llmbench.schema.metrics import Noise

unhurried = settings(deadline=None)
"""A machine shared with other work is no fault of the code."""

NOTHING_KNOWN = Noise(process_sd=1e-3, process_df=1e-12, session_sd=0, session_df=1)
NOISE = Noise(process_sd=0.005, process_df=20, session_sd=0.003, session_df=10)
BEFORE, NOW = [0.1, 0.3, 0.2, 0.5, 0.4], [0.35, 0.3, 0.7, 0.6, 0.5]


def between_sessions(before: list[float], now: list[float], noise: Noise) -> Estimate:
    return difference(SESSIONS, before, now, noise)


def paired(before: list[float], now: list[float], noise: Noise) -> Estimate:
    return difference(PAIRS, before, now, noise)


logs = st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=6)


def test_without_knowledge_two_sessions_have_students_t() -> None:
    from scipy import stats

    estimate = between_sessions(BEFORE, NOW, NOTHING_KNOWN)

    expected = stats.ttest_ind(NOW, BEFORE, alternative="greater")
    assert chance_of_more(estimate) == pytest.approx(expected.pvalue)


def test_without_knowledge_pairs_have_the_paired_t() -> None:
    from scipy import stats

    estimate = paired(BEFORE, NOW, NOTHING_KNOWN)

    expected = stats.ttest_rel(NOW, BEFORE)
    assert chance_of_more(estimate) * 2 == pytest.approx(expected.pvalue)
    assert interval(estimate, 0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)))


def test_one_process_against_one_has_the_noise_that_is_known() -> None:
    estimate = between_sessions([0.0], [0.01], NOISE)

    assert estimate.standard_error == pytest.approx(math.sqrt(2 * 0.005**2 + 2 * 0.003**2))
    assert 20 < estimate.df < 30


def test_a_pair_has_no_noise_of_the_session() -> None:
    assert paired([0.0], [0.01], NOISE) == pytest.approx(Estimate(0.01, math.sqrt(2) * 0.005, 20))


def test_what_is_seen_moderates_what_is_known() -> None:
    loud, quiet = (between_sessions([0.0], [-scatter, scatter], NOISE) for scatter in (0.008, 0.001))

    assert quiet.standard_error < between_sessions([0.0], [0.0, 0.0], NOISE).standard_error * 1.01 < loud.standard_error
    assert quiet.df > between_sessions([0.0], [0.0], NOISE).df


def test_a_case_that_is_far_noisier_than_known_counts_by_itself() -> None:
    from scipy import stats

    noisy = [-0.08, 0.1, -0.09, 0.07, 0.0]

    estimate = paired([0.0] * 5, noisy, NOISE)

    assert estimate.df == 4
    assert estimate.standard_error == pytest.approx(stats.sem(noisy))


def test_no_number_of_processes_removes_the_noise_of_the_session() -> None:
    same = [0.0] * 1000

    assert between_sessions(same, same, NOISE).standard_error >= math.sqrt(2) * NOISE.session_sd


def test_more_processes_now_make_a_smaller_error() -> None:
    errors = [between_sessions([0.0], [0.0] * count, NOISE).standard_error for count in (1, 2, 4, 8)]

    assert errors == sorted(errors, reverse=True)


@unhurried
@given(logs, logs, st.randoms(use_true_random=False))
def test_the_order_of_processes_does_not_matter(before: list[float], now: list[float], rng: random.Random) -> None:
    shuffled = rng.sample(before, len(before)), rng.sample(now, len(now))

    assert between_sessions(*shuffled, NOISE) == pytest.approx(between_sessions(before, now, NOISE))


@unhurried
@given(logs, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(now: list[float], rng: random.Random) -> None:
    order = rng.sample(range(len(now)), len(now))
    before = [0.01 * number for number in range(len(now))]

    shuffled = paired([before[i] for i in order], [now[i] for i in order], NOISE)
    assert shuffled == pytest.approx(paired(before, now, NOISE))


@unhurried
@given(logs, logs, st.floats(-5, 5))
def test_another_unit_changes_nothing(before: list[float], now: list[float], log_of_unit: float) -> None:
    scaled = [[log + log_of_unit for log in side] for side in (before, now)]

    assert between_sessions(scaled[0], scaled[1], NOISE) == pytest.approx(
        between_sessions(before, now, NOISE), abs=1e-9
    )


@pytest.mark.parametrize("df", [5, 8, 20, 100])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.9), (0.01, 0.9), (0.05, 0.5)])
def test_the_detectable_effect_is_that_of_the_noncentral_t(df: float, alpha: float, power: float) -> None:
    from scipy import stats

    effect = detectable(Estimate(0.0, 1.0, df), alpha=alpha, power=power)

    reached = stats.nct.sf(stats.t.isf(alpha, df), df, effect)
    assert reached == pytest.approx(power, abs=0.06)


def test_at_the_threshold_the_chance_is_alpha() -> None:
    estimate = Estimate(0.0, 0.02, 12)

    assert chance_of_more(estimate._replace(effect=threshold(estimate, 0.001))) == pytest.approx(0.001)


@pytest.mark.parametrize(("effect", "margin", "equivalent"), [(0, 0.02, True), (0.009, 0.02, False), (0, 0.015, False)])
def test_equivalence_takes_an_interval_within_the_margin(effect: float, margin: float, *, equivalent: bool) -> None:
    assert is_equivalent(Estimate(effect, 0.01, 1e6), margin) == equivalent


def test_a_95_percent_interval_holds_the_truth_in_95_of_100_cases() -> None:
    rng = random.Random(11)
    trials, held = 3000, 0
    for _ in range(trials):
        sessions = rng.gauss(0, NOISE.session_sd), rng.gauss(0, NOISE.session_sd)
        before, now = ([rng.gauss(centre, NOISE.process_sd) for _ in range(3)] for centre in sessions)
        low, high = interval(between_sessions(before, now, NOISE))
        held += low <= 0 <= high
    error = NormalDist().inv_cdf(0.9995) * math.sqrt(0.95 * 0.05 / trials)
    assert held / trials > 0.95 - error


def test_a_small_chance_is_as_rare_as_it_says() -> None:
    """Uniform at its lower end, with noise that was estimated from twenty processes."""
    from scipy import stats

    rng = random.Random(12)
    trials, rare = 4000, 0
    for _ in range(trials):
        history = [rng.gauss(0, 0.005) for _ in range(21)]
        mean = sum(history) / 21
        sd = math.sqrt(sum((log - mean) ** 2 for log in history) / 20)
        noise = Noise(process_sd=sd, process_df=20, session_sd=0, session_df=1)
        before, now = ([rng.gauss(0, 0.005) for _ in range(3)] for _ in "ab")
        rare += chance_of_more(paired(before, now, noise)) <= 0.01
    assert stats.binomtest(rare, trials, 0.01, alternative="greater").pvalue > 1e-3
