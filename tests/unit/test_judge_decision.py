"""What a difference and its error decide, at the borders of the rule."""

from __future__ import annotations

import math

import pytest

from pytest_llmbench.judge.decision import ALPHA, PAIRS, SESSIONS, decide, difference, more_processes, noticeable
from pytest_llmbench.judge.statistics import Estimate, threshold
from pytest_llmbench.schema.metrics import METRICS, Noise

BUSY = METRICS["device_busy_seconds_per_sample"]
SMALLEST = math.log1p(BUSY.smallest_effect)


@pytest.mark.parametrize(("effect", "suspect"), [(0.49, False), (0.51, True), (0.7, True)])
def test_a_move_for_the_worse_is_suspect_from_half_the_smallest_effect_on(effect: float, *, suspect: bool) -> None:
    harm = Estimate(effect * SMALLEST, 0.28 * SMALLEST, 1000)

    assert decide(harm, BUSY, ALPHA).suspect == suspect


@pytest.mark.parametrize("effect", [0.006, 0.01, 0.015])
def test_as_many_processes_are_asked_for_as_settle_it_with_an_error_a_quarter_larger(effect: float) -> None:
    noise = Noise(process_sd=0.004, process_df=20, session_sd=0.0, session_df=20)
    spread = PAIRS.spread([0.0], [effect], noise)

    def settles(count: int, larger: float) -> bool:
        more = spread._replace(process_df=spread.process_df + count - 1)
        error, df = PAIRS.error(more, 1, count)
        return decide(Estimate(effect, larger * error, df), BUSY, ALPHA).status != "undecided"

    needed = more_processes(PAIRS, spread, Estimate(effect, 0.004, 20), BUSY, ALPHA, before=1, now=1)

    assert needed is not None
    assert settles(needed, 1.24)
    assert not settles(needed - 1, 1.26)


SURE = 1e-6


@pytest.mark.parametrize(
    ("effect", "status"),
    [(SMALLEST, "regressed"), (-SMALLEST, "improved"), (0.99 * SMALLEST, "unchanged"), (-0.99 * SMALLEST, "unchanged")],
)
def test_a_move_that_is_sure_matters_from_the_smallest_effect_on(effect: float, status: str) -> None:
    assert decide(Estimate(effect, SURE, 100), BUSY, ALPHA).status == status


@pytest.mark.parametrize(("errors", "status"), [(1.01, "regressed"), (-1.01, "improved")])
def test_a_move_is_sure_from_the_threshold_of_its_chance_on(errors: float, status: str) -> None:
    error = SMALLEST
    sure = threshold(Estimate(0.0, error, 50), ALPHA)

    assert decide(Estimate(errors * sure, error, 50), BUSY, ALPHA).status == status
    assert decide(Estimate(errors / 1.03 * sure, error, 50), BUSY, ALPHA).status not in ("regressed", "improved")


@pytest.mark.parametrize(("errors", "suspect"), [(1.63, False), (1.66, True)])
def test_a_move_for_the_worse_is_suspect_if_noise_looks_so_bad_once_in_twenty_times(
    errors: float, *, suspect: bool
) -> None:
    error = 2 * SMALLEST

    assert decide(Estimate(errors * error, error, 1e6), BUSY, ALPHA).suspect == suspect


def test_a_move_for_the_better_is_no_suspect() -> None:
    assert not decide(Estimate(-4 * SMALLEST, 2 * SMALLEST, 1e6), BUSY, ALPHA).suspect


@pytest.mark.parametrize(("share", "unchanged"), [(0.99, True), (1.01, False)])
def test_a_speed_is_unchanged_if_it_surely_moved_by_less_than_its_margin(share: float, *, unchanged: bool) -> None:
    error = share * math.log1p(BUSY.margin) / 1.645

    assert (decide(Estimate(0.0, error, 1e6), BUSY, ALPHA).status == "unchanged") == unchanged


def test_what_is_noticeable_is_suspect_in_nine_of_ten_cases() -> None:
    assert noticeable(Estimate(0.0, 1.0, 1e9)) == pytest.approx(1.645 + 1.2816, abs=0.001)


def test_a_difference_is_that_of_the_means_with_the_error_of_its_design() -> None:
    noise = Noise(process_sd=0.004, process_df=20, session_sd=0.003, session_df=20)

    sessions = difference(SESSIONS, [0.1, 0.3], [0.5, 0.6, 0.7], noise)
    pairs = difference(PAIRS, [0.1, 0.3], [0.5, 0.7], noise)

    assert sessions.effect == pytest.approx(0.4)
    assert pairs.effect == pytest.approx(0.4)
    assert sessions[1:] == SESSIONS.error(SESSIONS.spread([0.1, 0.3], [0.5, 0.6, 0.7], noise), 2, 3)
    assert pairs[1:] == PAIRS.error(PAIRS.spread([0.1, 0.3], [0.5, 0.7], noise), 2, 2)


def test_what_64_processes_would_not_settle_asks_for_none() -> None:
    noise = Noise(process_sd=0.004, process_df=20, session_sd=0.05, session_df=20)
    known = difference(SESSIONS, [0.0], [0.01], noise)

    spread = SESSIONS.spread([0.0], [0.01], noise)

    assert more_processes(SESSIONS, spread, known, BUSY, ALPHA, before=1, now=1) is None


def test_more_processes_are_asked_for_than_there_were() -> None:
    noise = Noise(process_sd=0.001, process_df=20, session_sd=0.0, session_df=20)
    spread = SESSIONS.spread([0.0] * 4, [0.0] * 4, noise)

    assert more_processes(SESSIONS, spread, Estimate(0.0, 0.001, 20), BUSY, ALPHA, before=4, now=4) == 5
    assert more_processes(PAIRS, spread, Estimate(0.0, 0.001, 20), BUSY, ALPHA, before=0, now=0) == 1


@pytest.mark.parametrize(("process_sd", "most"), [(0.0397, 64), (0.044, None)])
def test_more_than_64_processes_are_never_asked_for(process_sd: float, most: int | None) -> None:
    noise = Noise(process_sd=process_sd, process_df=1e6, session_sd=0.0, session_df=20)
    spread = PAIRS.spread([0.0], [0.0], noise)

    needed = more_processes(PAIRS, spread, Estimate(0.0, process_sd, 1e6), BUSY, ALPHA, before=0, now=0)

    assert (needed is None) == (most is None)
    assert needed is None or 50 < needed <= 64
