"""Which process may be trusted, and which move is the GPU's own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import measurements
import surroundings
from measurements import BUSY, SPEED, good
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.validity import canary_change, why_invalid
from pytest_llmbench.schema.measurement import Evidence, Measurement, Process, Round
from pytest_llmbench.schema.metrics import METRICS

ROUNDS = tuple(Round(seconds, 4, 4000) for seconds in (1.0, 1.0, 1.1))


def process(rounds: tuple[Round, ...] = ROUNDS, **evidence: Any) -> Process:
    return Process(outcome="ok", rounds=rounds, evidence=Evidence(**evidence))


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        ({}, None),
        ({"foreign_processes": (0, 0)}, None),
        ({"foreign_processes": (0, 1)}, "1 other process used the GPU at the same time"),
        ({"foreign_processes": (2,)}, "2 other processes used the GPU at the same time"),
        ({"power_cap_seconds": (3.0,), "allocation_retries": 3, "freed_segments": 9}, None),
        ({"thermal_slowdown_seconds": (0.03,)}, None),
        ({"thermal_slowdown_seconds": (0.0, 0.04)}, "the GPU was slowed down for its temperature for 0.04 s of 3.1 s"),
        (
            {"hardware_slowdown_seconds": (0.001,)},
            "the hardware slowed the GPU down for 0.001 s of the measured rounds",
        ),
        ({"recompilations": 2}, None),
    ],
)
def test_a_process_is_invalid_by_what_it_saw(evidence: dict[str, Any], reason: str | None) -> None:
    assert why_invalid(process(**evidence)) == reason


def test_where_others_always_use_the_gpu_they_do_not_count() -> None:
    assert why_invalid(process(foreign_processes=(2,)), shared=True) is None


def rounds(*seconds: float, tokens: tuple[int, ...] = (1000, 1000, 1000, 1000)) -> tuple[Round, ...]:
    return tuple(Round(one, 4, count) for one, count in zip(seconds, tokens, strict=False))


SLOW_START = (1.6, 1.0, 1.0, 1.0)


def test_a_first_round_that_took_longer_than_its_equals_was_not_warm() -> None:
    assert why_invalid(process(rounds(*SLOW_START))) == (
        "the first of 4 equal rounds took 1.6 times as long as the others: it was not warm yet"
    )


@pytest.mark.parametrize(
    "steady",
    [
        rounds(1.5, 1.0, 1.0, 1.0),
        rounds(1.0, 1.6, 1.0, 1.0),
        rounds(1.6, 1.0),
        rounds(1.6, 1.0, 1.0, tokens=(1200, 1000, 1000)),
        rounds(1.6, 1.0, 1.0, tokens=(0, 0, 0)),
        (),
    ],
)
def test_other_rounds_tell_nothing(steady: tuple[Round, ...]) -> None:
    assert why_invalid(process(steady)) is None


def test_on_a_cpu_that_others_share_rounds_tell_nothing() -> None:
    assert why_invalid(process(rounds(*SLOW_START)), on_gpu=False) is None


def measured(
    flops: tuple[float, ...] | None = (700e12,),
    copied: tuple[float, ...] | None = (4e12,),
    busy: float = 0.1,
    compiled: int | None = 0,
    **packages: str,
) -> Measurement:
    evidence = Evidence(canary_flops_per_second=flops, canary_copy_bytes_per_second=copied, recompilations=compiled)
    one = good({BUSY: busy, SPEED: 0.95 / busy, "host_bound": 0.95}, evidence=evidence)
    return measurements.measured(*[one] * 5, environment=surroundings.environment(packages=packages))


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (measured(), 0.0),
        (measured(flops=(630e12,)), -0.1),
        (measured(flops=(770e12,), copied=(2e12,)), -0.5),
        (measured(flops=None, copied=(5e12,)), 0.25),
        (measured(flops=None, copied=None), None),
    ],
)
def test_the_canary_that_fell_most_tells_how_the_gpu_has_changed(now: Measurement, change: float | None) -> None:
    assert canary_change(measured(), now) == (None if change is None else pytest.approx(change))


def test_of_several_gpus_each_is_held_against_itself() -> None:
    then, now = measured(flops=(700e12, 650e12)), measured(flops=(665e12, 660e12))

    assert canary_change(then, now) == pytest.approx(-0.05)


def status(now: Measurement) -> str:
    verdict = judge(now, Reference(measurement=measured()))
    return next(metric.status for metric in verdict.metrics if metric.metric == BUSY)


def test_a_speed_that_is_worse_by_as_much_as_the_gpu_is_not_known() -> None:
    verdict = judge(measured(flops=(630e12,), busy=0.11), Reference(measurement=measured()))

    assert (verdict.status, verdict.failed) == ("unmeasured", True)
    assert {metric.reason for metric in verdict.metrics if metric.status == "unmeasured"} == {
        "the GPU itself is 10.0 % slower than when the baseline was recorded, "
        "by the matrix product and the copy after each case"
    }


@pytest.mark.parametrize(
    "now",
    [
        measured(busy=0.11),
        measured(flops=(690e12,), busy=0.11),
        measured(flops=(670e12,), busy=0.11),
        measured(flops=(770e12,), busy=0.11),
        measured(flops=None, copied=None, busy=0.11),
        measured(flops=(630e12,), busy=0.11, torch="2.13.0"),
    ],
    ids=["as it was", "noise", "a part of it", "faster", "not known", "another torch"],
)
def test_a_gpu_that_does_not_account_for_the_move_excuses_nothing(now: Measurement) -> None:
    assert status(now) == "regressed"


def test_a_faster_gpu_fails_nothing() -> None:
    assert status(measured(flops=(800e12,), busy=0.09)) == "improved"


def test_in_pairs_both_sides_had_the_same_gpu() -> None:
    verdict = judge_pair(measured(), measured(flops=(630e12,), busy=0.11))

    assert verdict.status == "regressed"


def test_a_step_that_compiles_more_than_the_baselines_is_not_known_to_be_slower() -> None:
    verdict = judge(measured(busy=0.11, compiled=3), Reference(measurement=measured(compiled=1)))

    assert verdict.status == "unmeasured"
    assert {metric.reason for metric in verdict.metrics if metric.status == "unmeasured"} == {
        "torch.compile compiled 3 graphs within the measured rounds, for the baseline 1"
    }


@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 3), (3, 1), (None, 3), (0, None)])
def test_a_step_that_compiles_no_more_is_judged(before: int | None, after: int | None) -> None:
    verdict = judge(measured(busy=0.11, compiled=after), Reference(measurement=measured(compiled=before)))

    assert verdict.status == "regressed"


def on_card(card: str | None, *, busy: float = 0.1, capped: float = 2.0, processes: int = 1) -> Measurement:
    """Ten seconds of rounds on a card, for some of which its power limit held it back."""
    evidence = Evidence(cards=None if card is None else (card,), power_cap_seconds=(capped,))
    one = msgspec.structs.replace(measured(busy=busy).processes[0], evidence=evidence, rounds=(Round(10.0, 16, 16000),))
    return msgspec.structs.replace(measured(), processes=(one,) * processes)


@pytest.mark.parametrize("card", ["b", None])
def test_where_the_power_limit_holds_it_back_another_card_may_be_slower(card: str | None) -> None:
    verdict = judge(on_card(card, busy=0.104, capped=2.1), Reference(measurement=on_card("a")))

    busy = next(metric for metric in verdict.metrics if metric.metric == BUSY)
    assert busy.status == "undecided"
    assert busy.reason.endswith("its power limit holds the GPU back, and this may be another one")
    assert not verdict.failed


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (on_card("a"), on_card("a", busy=0.104, capped=2.1)),
        (on_card("a", capped=1.0), on_card("b", busy=0.104, capped=1.9)),
    ],
    ids=["the same card", "hardly held back"],
)
def test_otherwise_a_card_is_as_fast_as_another(before: Measurement, now: Measurement) -> None:
    assert judge(now, Reference(measurement=before)).status == "regressed"


def test_no_card_explains_a_slow_down_that_is_large() -> None:
    assert judge(on_card("b", busy=0.12, capped=9.0), Reference(measurement=on_card("a"))).status == "regressed"


def test_a_calibrated_row_goes_by_its_own_noise() -> None:
    noise = {BUSY: METRICS[BUSY].prior["device-bound"]}

    verdict = judge(on_card("b", busy=0.104, capped=9.0), Reference(measurement=on_card("a"), noise=noise))

    assert verdict.status == "regressed"


@pytest.mark.parametrize(("slower", "known"), [(0.025, "regressed"), (0.035, "unmeasured")])
def test_a_gpu_is_slower_itself_from_3_percent_on(slower: float, known: str) -> None:
    assert status(measured(flops=(700e12 * (1 - slower),), busy=0.1035)) == known


def only_wall_time(speed: float, flops: float = 700e12) -> Measurement:
    evidence = Evidence(canary_flops_per_second=(flops,), canary_copy_bytes_per_second=(4e12,))
    one = good({SPEED: speed, "host_bound": 0.95}, evidence=evidence)
    return msgspec.structs.replace(measured(), processes=(one,) * 5)


@pytest.mark.parametrize(("speed", "failed_for_the_gpu"), [(9.0, True), (8.3, False)])
def test_wall_time_that_is_longer_by_as_much_as_the_gpu_is_not_known(speed: float, *, failed_for_the_gpu: bool) -> None:
    verdict = judge(only_wall_time(speed, flops=630e12), Reference(measurement=only_wall_time(10.0)))

    assert ("the GPU itself is 10.0 % slower" in verdict.metrics[0].reason) == failed_for_the_gpu
    assert verdict.failed


def test_a_step_that_compiles_more_says_how_many_graphs() -> None:
    verdict = judge(measured(busy=0.2, compiled=3), Reference(measurement=measured(compiled=1)))

    assert {metric.reason for metric in verdict.metrics if metric.metric == BUSY} == {
        "torch.compile compiled 3 graphs within the measured rounds, for the baseline 1"
    }


@pytest.mark.parametrize(("tokens", "equal"), [(110, True), (111, False)])
def test_rounds_are_equal_work_up_to_a_tenth_more_tokens(tokens: int, *, equal: bool) -> None:
    one = Process(outcome="ok", rounds=(Round(9.0, 4, tokens), Round(1.0, 4, 100), Round(1.0, 4, 100)))

    assert (why_invalid(one) is not None) == equal
