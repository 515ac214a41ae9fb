"""A speed judged by its noise: what one process can say, what it cannot, and that it says so."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import measurements
import surroundings
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.decision import SESSIONS, difference
from pytest_llmbench.judge.statistics import threshold
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.schema.measurement import Measurement, Process, Round
from pytest_llmbench.schema.metrics import METRICS, Metric, Noise, Value

unhurried = settings(deadline=None)
"""A machine shared with other work is no fault of the code."""

SPEED, BUSY = "samples_per_second", "device_busy_seconds_per_sample"
DEVICE_BOUND: dict[str, Value] = {SPEED: 4.0, BUSY: 0.24, "host_bound": 0.96, "kernels_per_sample": 7587}
HOST_BOUND: dict[str, Value] = {SPEED: 4.0, BUSY: 0.06, "host_bound": 0.24, "kernels_per_sample": 7587}
QUIET = Noise(process_sd=0.001, process_df=40, session_sd=0.0005, session_df=20)
ENVIRONMENT = surroundings.environment(python="3.12", num_cpus=16)


def measured(*processes: dict[str, Value], **changes: Any) -> Measurement:
    return measurements.measured(*processes, **{"environment": ENVIRONMENT, **changes})


def slower(row: dict[str, Value], **by: float) -> dict[str, Value]:
    """The same row, its metric longer by a fraction, or of that much lower speed."""
    changed = dict(row)
    for name, fraction in by.items():
        value = row[name]
        assert isinstance(value, float)
        changed[name] = value / (1 + fraction) if name == SPEED else value * (1 + fraction)
    return changed


def compared(before: dict[str, Value], after: dict[str, Value], **noise: Noise) -> RowVerdict:
    """One process against one."""
    return judge(measured(after), Reference(measurement=measured(before), noise=noise))


def of(verdict: RowVerdict, name: str) -> MetricVerdict:
    return next(metric for metric in verdict.metrics if metric.metric == name)


@pytest.mark.parametrize("row", [DEVICE_BOUND, HOST_BOUND], ids=["device-bound", "host-bound"])
@pytest.mark.parametrize(
    ("by", "status", "failed"),
    [
        (0.0, "unchanged", False),
        (0.003, "unchanged", False),
        (0.015, "undecided", False),
        (0.09, "regressed", True),
        (-0.09, "improved", False),
    ],
)
def test_one_process_on_the_gpu_tells_a_large_move_from_none(
    row: dict[str, Value], by: float, status: Status, *, failed: bool
) -> None:
    verdict = compared(row, slower(row, **{BUSY: by}))

    assert (of(verdict, BUSY).status, verdict.status, verdict.failed) == (status, status, failed)


def test_a_move_that_one_process_cannot_prove_asks_for_more() -> None:
    verdict = compared(DEVICE_BOUND, slower(DEVICE_BOUND, **{BUSY: 0.015}))

    assert verdict.status == "undecided"
    assert verdict.processes_needed == of(verdict, BUSY).processes_needed
    assert verdict.processes_needed is not None
    assert f"{verdict.processes_needed} pairs of processes in turn (llmbench ab) would" in of(verdict, BUSY).reason


def test_a_row_whose_sessions_agree_asks_for_processes_and_not_for_pairs() -> None:
    noise = {BUSY: msgspec.structs.replace(QUIET, session_sd=0.0001)}
    verdict = compared(DEVICE_BOUND, slower(DEVICE_BOUND, **{BUSY: 0.0055}), **noise)

    assert of(verdict, BUSY).reason.endswith(f"; {verdict.processes_needed} processes would")
    enough = measured(*[slower(DEVICE_BOUND, **{BUSY: 0.0055})] * (verdict.processes_needed or 0))
    settled = judge(enough, Reference(measurement=measured(DEVICE_BOUND), noise=noise))
    assert settled.status == "regressed"


def test_a_verdict_says_what_it_rests_on() -> None:
    busy = of(compared(DEVICE_BOUND, slower(DEVICE_BOUND, **{BUSY: 0.09})), BUSY)

    assert busy.change == pytest.approx(0.09)
    assert busy.interval is not None
    assert busy.interval[0] < 0.09 < busy.interval[1]
    assert busy.limit is not None
    assert busy.detectable is not None
    assert 0.01 < busy.detectable < busy.limit < busy.interval[0]
    assert busy.p_value is not None
    assert busy.p_value < 1e-8


def test_the_change_of_a_speed_is_below_zero_where_it_is_slower() -> None:
    speed = of(compared(DEVICE_BOUND, slower(DEVICE_BOUND, **{SPEED: 0.25})), SPEED)

    assert speed.change == pytest.approx(-0.2)
    assert speed.interval is not None
    assert speed.interval[0] < -0.2 < speed.interval[1] < 0
    assert speed.p_value is not None
    assert speed.p_value < 1e-8


@pytest.mark.parametrize("by", [-0.3, -0.1, 0.0, 0.1, 0.3])
def test_wall_time_that_waits_for_the_host_is_advisory_and_says_so(by: float) -> None:
    """So far did it move between two sessions of the same code."""
    verdict = compared(HOST_BOUND, slower(HOST_BOUND, **{SPEED: by}))

    speed = of(verdict, SPEED)
    assert (verdict.status, speed.gates) == ("unchanged", False)
    assert speed.reason.startswith("advisory: too noisy to see 3 %, would notice 4")
    assert verdict.reason == "2 metrics within their limits; too noisy to count: samples_per_second"


def test_a_host_that_takes_twice_as_long_is_suspect_and_does_not_fail() -> None:
    verdict = compared(HOST_BOUND, slower(HOST_BOUND, **{SPEED: 1.0}))

    assert (verdict.status, verdict.failed) == ("undecided", False)
    assert of(verdict, SPEED).gates


def test_a_host_that_takes_five_times_as_long_fails() -> None:
    assert compared(HOST_BOUND, slower(HOST_BOUND, **{SPEED: 4.0})).failed


def test_a_row_of_nothing_but_noise_is_open() -> None:
    only: dict[str, Value] = {SPEED: 4.0, "host_bound": 0.2}

    verdict = compared(only, only)

    assert (verdict.status, verdict.failed) == ("undecided", False)
    assert verdict.reason == "the baseline has no metric that could fail; too noisy to count: samples_per_second"


def test_what_noise_leaves_open_fails_with_what_was_not_measured() -> None:
    without = slower(DEVICE_BOUND, **{BUSY: 0.015})
    del without["kernels_per_sample"]

    verdict = compared(DEVICE_BOUND, without)

    assert (verdict.status, verdict.failed) == ("unmeasured", True)


def test_what_noise_leaves_open_is_told_before_what_improved() -> None:
    fewer = slower(DEVICE_BOUND, **{BUSY: 0.015}) | {"kernels_per_sample": 7000}

    verdict = compared(DEVICE_BOUND, fewer)

    assert of(verdict, "kernels_per_sample").status == "improved"
    assert verdict.status == "undecided"


def test_a_row_of_its_own_noise_sees_more() -> None:
    assert of(compared(DEVICE_BOUND, DEVICE_BOUND), BUSY).detectable == pytest.approx(0.0158, abs=0.001)
    assert of(compared(DEVICE_BOUND, DEVICE_BOUND, **{BUSY: QUIET}), BUSY).detectable == pytest.approx(
        0.0048, abs=0.001
    )
    assert compared(DEVICE_BOUND, slower(DEVICE_BOUND, **{BUSY: 0.02}), **{BUSY: QUIET}).status == "regressed"


def test_a_move_that_does_not_matter_is_no_regression_however_sure() -> None:
    certain = Noise(process_sd=1e-6, process_df=100, session_sd=0, session_df=100)

    verdict = compared(
        DEVICE_BOUND, slower(DEVICE_BOUND, **{BUSY: 0.0029, SPEED: 0.009}), **{BUSY: certain, SPEED: certain}
    )
    beyond = compared(DEVICE_BOUND, slower(DEVICE_BOUND, **{BUSY: 0.0031}), **{BUSY: certain})

    assert (verdict.status, beyond.status) == ("unchanged", "regressed")


@pytest.mark.parametrize("value", [-0.24, math.nan, math.inf, (1, 2)])
@pytest.mark.parametrize("side", ["before", "now"])
def test_a_speed_that_is_no_number_above_zero_is_never_green(value: Value, side: str) -> None:
    bad = {**DEVICE_BOUND, BUSY: value}
    verdict = compared(bad, DEVICE_BOUND) if side == "before" else compared(DEVICE_BOUND, bad)

    assert verdict.failed
    assert of(verdict, BUSY).reason.startswith("not a number above 0")


def test_a_move_beyond_all_measure_can_be_stored() -> None:
    verdict = compared({**DEVICE_BOUND, BUSY: 1e-300}, {**DEVICE_BOUND, BUSY: 1e300})

    assert verdict.failed
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=RowVerdict) == verdict


def test_one_slow_process_of_several_is_no_regression() -> None:
    now = measured(DEVICE_BOUND, DEVICE_BOUND, slower(DEVICE_BOUND, **{BUSY: 0.2}))

    assert not judge(now, Reference(measurement=measured(DEVICE_BOUND))).failed


def test_a_stall_in_one_of_many_equal_rounds_is_no_regression() -> None:
    def of_rounds(*seconds: float) -> Measurement:
        rounds = tuple(Round(each, 4, 100) for each in seconds)
        metrics = {**DEVICE_BOUND, SPEED: 4 * len(seconds) / sum(seconds)}
        return measured(processes=(Process(outcome="ok", metrics=metrics, rounds=rounds),))

    verdict = judge(of_rounds(1, 1, 5), Reference(measurement=of_rounds(1, 1, 1)))

    assert of(verdict, SPEED).status == "unchanged"


RANKS: tuple[Status, ...] = ("unchanged", "undecided", "regressed")
slow_downs = st.floats(0, 0.2)
scatters = st.lists(st.floats(-0.01, 0.01), min_size=1, max_size=4)


@unhurried
@given(st.sampled_from([SPEED, BUSY]), scatters, slow_downs, slow_downs)
def test_a_larger_slow_down_is_never_a_better_verdict(
    metric: str, scatter: list[float], one: float, other: float
) -> None:
    less, more = sorted((one, other))
    # Seen from the mean, so that a slow-down of 0 is none.
    centre = math.expm1(sum(math.log1p(each) for each in scatter) / len(scatter))

    def ranked(by: float) -> int:
        now = [slower(DEVICE_BOUND, **{metric: (1 + by) * (1 + each) / (1 + centre) - 1}) for each in scatter]
        return RANKS.index(of(judge(measured(*now), Reference(measurement=measured(DEVICE_BOUND))), metric).status)

    assert ranked(less) <= ranked(more)


@unhurried
@given(st.sampled_from([SPEED, BUSY]), slow_downs, st.floats(1e-3, 1e3))
def test_another_unit_gives_the_same_verdict(metric: str, by: float, unit: float) -> None:
    value = DEVICE_BOUND[metric]
    assert isinstance(value, float)
    before = {**DEVICE_BOUND, metric: value * unit}

    scaled = of(compared(before, slower(before, **{metric: by})), metric)
    plain = of(compared(DEVICE_BOUND, slower(DEVICE_BOUND, **{metric: by})), metric)
    assert scaled.change == pytest.approx(plain.change, abs=1e-12)
    assert scaled.p_value == pytest.approx(plain.p_value, abs=1e-9)


@unhurried
@given(scatters, st.randoms(use_true_random=False))
def test_the_order_of_the_processes_does_not_matter(scatter: list[float], rng: random.Random) -> None:
    now = [slower(DEVICE_BOUND, **{BUSY: each}) for each in scatter]
    reference = Reference(measurement=measured(DEVICE_BOUND))

    one, other = (of(judge(measured(*order), reference), BUSY) for order in (now, rng.sample(now, len(now))))
    assert (one.status, one.processes_needed) == (other.status, other.processes_needed)
    assert one.interval == pytest.approx(other.interval)


@pytest.mark.parametrize("row", [DEVICE_BOUND, HOST_BOUND], ids=["device-bound", "host-bound"])
def test_a_thousand_sessions_that_did_not_move_raise_no_alarm(row: dict[str, Value]) -> None:
    """With noise as the class of the row is said to have, one process against one."""
    rng = random.Random(21)
    wall = (0.3, 0.5) if row is DEVICE_BOUND else (5, 12)
    open_rows = 0
    for _ in range(1000):
        sides = [
            slower(
                row, **{BUSY: rng.gauss(0, math.hypot(0.2, 0.3)) / 100, SPEED: rng.gauss(0, math.hypot(*wall)) / 100}
            )
            for _ in "ab"
        ]
        verdict = compared(*sides)
        assert not verdict.failed
        open_rows += verdict.status == "undecided"
    assert open_rows < 500


def test_a_statistical_metric_of_another_package_is_judged_by_its_own_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = dict.fromkeys(("device-bound", "host-bound", "CPU"), QUIET)
    own = Metric(
        name="acme_seconds",
        unit="s",
        better="lower",
        gate="statistical",
        prior=prior,  # type: ignore[arg-type] # dict.fromkeys loses the literals
        smallest_effect=0.003,
        margin=0.015,
        describe="It is.",
    )
    monkeypatch.setitem(METRICS, own.name, own)

    slow, noisy = (of(compared({own.name: 1.0}, {own.name: now}), own.name) for now in (1.05, 1.002))

    assert (slow.status, slow.gates) == ("regressed", True)
    assert noisy.status == "unchanged"


def test_a_speed_has_its_share_of_the_rows_chance_of_a_false_alarm() -> None:
    kind = METRICS[BUSY].prior["device-bound"]
    known = difference(SESSIONS, [0.0], [0.0], kind)

    limit = of(compared(DEVICE_BOUND, slower(DEVICE_BOUND, **{BUSY: 0.001})), BUSY).limit

    # One row in ten thousand, over two looks and two speeds.
    assert limit == pytest.approx(math.expm1(threshold(known, 0.0001 / 2 / 2)))


@pytest.mark.parametrize("by", [0.09, -0.09])
def test_a_move_that_noise_does_not_explain_says_so(by: float) -> None:
    assert of(compared(DEVICE_BOUND, slower(DEVICE_BOUND, **{BUSY: by})), BUSY).reason == "more than noise explains"


def test_a_speed_that_did_not_move_says_within_what() -> None:
    assert of(compared(DEVICE_BOUND, DEVICE_BOUND), BUSY).reason == "surely within 1.5 %"
