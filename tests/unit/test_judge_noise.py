"""How much a speed moves by itself: what is assumed of a class of rows, and what a calibration finds."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest

import measurements
import surroundings
from pytest_llmbench.judge.noise import OTHER_CARD_SD, estimate_noise, on_other_cards, pooled, row_class
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process, Round
from pytest_llmbench.schema.metrics import METRICS, Noise, RowClass, Value

SPEED = "samples_per_second"
BUSY = "device_busy_seconds_per_sample"
PRIOR = Noise(process_sd=0.002, process_df=6, session_sd=0.003, session_df=10)


def measured(*processes: dict[str, Value], **changes: Any) -> Measurement:
    return measurements.measured(*processes, **{"environment": None, **changes})


def simulated(
    sessions: int, processes: int, *, process_sd: float, session_sd: float, seed: int = 7
) -> list[list[float]]:
    rng = random.Random(seed)
    centres = [rng.gauss(0, session_sd) for _ in range(sessions)]
    return [[rng.gauss(centre, process_sd) for _ in range(processes)] for centre in centres]


@pytest.mark.parametrize(
    ("then", "now", "kind"),
    [
        (0.95, 0.5, "device-bound"),
        (0.9, 0.5, "device-bound"),
        (0.89, 0.95, "host-bound"),
        (None, 0.5, "host-bound"),
        (None, None, "device-bound"),
    ],
)
def test_the_baseline_says_of_what_class_a_row_is(then: float | None, now: float | None, kind: RowClass) -> None:
    sides = [measured({} if share is None else {"host_bound": share}) for share in (then, now)]

    assert row_class(*sides) == kind


def test_a_cpu_is_a_class_of_its_own() -> None:
    cpu = surroundings.environment(device="cpu", python="3.12")

    assert row_class(measured({"host_bound": 0.95}, environment=cpu), measured({})) == "CPU"


def test_wall_time_that_waits_for_the_host_is_the_noisiest() -> None:
    assert METRICS[SPEED].prior["host-bound"].process_sd > 10 * METRICS[SPEED].prior["device-bound"].process_sd
    assert METRICS[BUSY].prior["host-bound"] == METRICS[BUSY].prior["device-bound"]


def test_many_sessions_outweigh_the_prior() -> None:
    noise = pooled(simulated(200, 10, process_sd=0.001, session_sd=0.02), PRIOR)

    assert noise.process_sd == pytest.approx(0.001, rel=0.05)
    assert noise.session_sd == pytest.approx(0.02, rel=0.1)
    assert noise.process_df == 6 + 200 * 9
    assert 10 + 190 < noise.session_df < 10 + 199


def test_a_quiet_case_is_taken_for_less_quiet_than_it_looks() -> None:
    noise = pooled(simulated(3, 3, process_sd=0.0002, session_sd=0), PRIOR)

    assert 0.0002 < noise.process_sd < PRIOR.process_sd


def test_a_prior_never_makes_a_noisy_case_quieter_than_it_is() -> None:
    sessions = simulated(3, 4, process_sd=0.02, session_sd=0)
    seen = math.sqrt(sum(sum((x - sum(s) / 4) ** 2 for x in s) for s in sessions) / 9)

    assert pooled(sessions, PRIOR).process_sd == pytest.approx(seen)


def test_scatter_of_processes_is_not_taken_for_that_of_sessions() -> None:
    noise = pooled(simulated(300, 2, process_sd=0.02, session_sd=0), PRIOR)

    assert noise.session_sd < 0.004


def test_noisy_processes_say_little_of_sessions() -> None:
    for seed in range(20):
        noise = pooled(simulated(5, 4, process_sd=0.02, session_sd=0, seed=seed), PRIOR)

        assert noise.session_sd == pytest.approx(PRIOR.session_sd, rel=0.2)
        assert noise.session_df == pytest.approx(PRIOR.session_df, abs=0.1)


def test_one_session_says_nothing_of_other_sessions() -> None:
    noise = pooled([[0.0, 0.001, 0.002]], PRIOR)

    assert (noise.session_sd, noise.session_df) == (PRIOR.session_sd, PRIOR.session_df)


def test_one_process_says_nothing() -> None:
    assert pooled([[0.5]], PRIOR) == PRIOR


def test_every_measurement_is_a_session() -> None:
    metrics: list[dict[str, Value]] = [{BUSY: 0.25 * math.exp(log)} for log in (0, 0.001, 0.004, 0.005)]
    sessions = [measured(*metrics[:2]), measured(*metrics[2:])]

    expected = pooled([[0, 0.001], [0.004, 0.005]], METRICS[BUSY].prior["device-bound"])
    found = estimate_noise(sessions)
    assert list(found) == [BUSY]
    assert found[BUSY].process_sd == pytest.approx(expected.process_sd)
    assert found[BUSY].session_sd == pytest.approx(expected.session_sd)


def test_a_case_noisier_than_its_prior_is_known_as_well_as_it_was_seen() -> None:
    seen = [[0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]]

    assert pooled(seen, WIDE).process_df == 6


def test_processes_that_failed_say_nothing() -> None:
    ok: dict[str, Value] = {BUSY: 0.25}
    failed = Process(outcome="invalid", reason="throttled", metrics={BUSY: 0.5})
    with_failed = measured(processes=(failed, *measured(ok, ok).processes))

    assert estimate_noise([with_failed]) == estimate_noise([measured(ok, ok)])


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, (1, 2)])
def test_a_metric_without_a_logarithm_has_no_noise(value: Value) -> None:
    assert estimate_noise([measured({BUSY: value})]) == {}


def test_a_stall_in_one_of_many_equal_rounds_is_no_noise() -> None:
    def process(*seconds: float) -> Process:
        rounds = tuple(Round(each, 4, 100) for each in seconds)
        return Process(outcome="ok", metrics={SPEED: 4 * len(seconds) / sum(seconds), "host_bound": 1.0}, rounds=rounds)

    steady = measured(processes=(process(1, 1, 1), process(1, 1, 1)))
    stalled = measured(processes=(process(1, 1, 1), process(1, 9, 1)))

    assert estimate_noise([stalled]) == estimate_noise([steady])


def test_rounds_of_other_samples_count_together() -> None:
    """Their median would not see that the long samples became slower."""

    def process(*seconds: float) -> Process:
        rounds = tuple(Round(each, 4, 100 * number) for number, each in enumerate(seconds))
        return Process(outcome="ok", metrics={SPEED: 4 * len(seconds) / sum(seconds)}, rounds=rounds)

    assert estimate_noise([measured(processes=(process(1, 2, 4), process(1, 2, 8)))])[SPEED].process_sd > 0.1


def test_other_work_is_no_session_of_the_case() -> None:
    with pytest.raises(ValueError, match="these did different work"):
        estimate_noise([measured({BUSY: 1.0}), measured({BUSY: 1.0}, case=Case(model="qwen-7b-chat", max_length=512))])


def test_nothing_has_no_noise_to_estimate() -> None:
    with pytest.raises(ValueError, match="no measurement to take the noise from"):
        estimate_noise([])


def test_another_card_adds_its_variance_to_that_of_the_session() -> None:
    found = on_other_cards(PRIOR)

    assert found.session_sd**2 == pytest.approx(PRIOR.session_sd**2 + OTHER_CARD_SD**2)
    assert msgspec.structs.replace(found, session_sd=PRIOR.session_sd) == PRIOR


WIDE = Noise(process_sd=0.1, process_df=4, session_sd=0.2, session_df=5)


@pytest.mark.parametrize(
    ("sessions", "process_variance", "process_df", "session_variance", "session_df"),
    [
        # Squares 0.02 over 1 degree of freedom, more than the prior: its own 4 stay; means 0.1 and 0.6; 0.015 of their 0.125 is the processes'.
        ([[0.0, 0.2], [0.6]], 0.02, 4, 0.11, 5 + (0.04 / 0.055) ** 2),
        # As above, but the means are nearer to each other than the prior has them.
        ([[0.0, 0.2], [0.3]], 0.02, 4, (0.2 + 0.005 * (0.04 / 0.055) ** 2) / (5 + (0.04 / 0.055) ** 2), 5.52893),
        # Three means, 0.1, 0.3 and 0.2: a variance of 0.01, of which 1/60 is the processes'.
        ([[0.0, 0.2], [0.3], [0.2]], 0.02, 4, (0.2 - 2 / 300 * 0.99654) / 5.99654, 5.99654),
        # One process each: the prior alone says what the processes do.
        ([[0.0], [0.1]], 0.01, 4, (0.2 - 0.005 * 0.64) / 5.64, 5.64),
    ],
)
def test_noise_is_an_analysis_of_variance_with_the_prior_as_more_observations(
    sessions: list[list[float]],
    process_variance: float,
    process_df: float,
    session_variance: float,
    session_df: float,
) -> None:
    found = pooled(sessions, WIDE)

    assert found.process_sd**2 == pytest.approx(process_variance, rel=1e-4)
    assert found.process_df == process_df
    assert found.session_sd**2 == pytest.approx(session_variance, rel=1e-4)
    assert found.session_df == pytest.approx(session_df, rel=1e-4)


def test_a_row_of_which_no_noise_between_sessions_is_known_gets_none() -> None:
    known = msgspec.structs.replace(WIDE, session_sd=0.0)

    found = pooled([[0.0], [9.0]], known)

    assert (found.session_sd, found.session_df) == (0.0, known.session_df)
