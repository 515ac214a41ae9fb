"""Values held to a limit: who said it, which device decides, and what processes that disagree leave open."""

from __future__ import annotations

import math

import pytest

from measurements import measured
from pytest_llmbench.judge.limits import Limit, held_to, limit_of, scatter, set_by_user, spread
from pytest_llmbench.schema.metrics import METRICS, Tolerance, Value

MEMORY, LOSS, SPEED = METRICS["peak_reserved_bytes"], METRICS["loss_first"], METRICS["samples_per_second"]
PEAK, KERNELS = METRICS["peak_allocated_bytes"], METRICS["kernels_per_sample"]
TENTH = Limit(Tolerance(relative=0.1), "a test")


def test_a_tolerance_of_the_run_beats_that_of_the_row() -> None:
    run, row = {"loss_first": Tolerance(0.1)}, {"loss_first": Tolerance(0.2)}

    assert set_by_user(LOSS, row, run) == Limit(Tolerance(0.1), "tolerance set for this run")
    assert set_by_user(LOSS, row, {}) == Limit(Tolerance(0.2), "tolerance of the row")
    assert set_by_user(LOSS, {}, {}) is None


def test_an_exact_metric_is_equal_but_for_its_jitter_within_one_environment_only() -> None:
    exact = limit_of(PEAK, same_environment=True)

    assert exact == Limit(Tolerance(absolute=PEAK.jitter), "must be equal within one environment", exact=True)
    assert limit_of(PEAK, same_environment=False) == Limit(PEAK.tolerance, "default tolerance")
    assert limit_of(MEMORY, same_environment=True) == Limit(MEMORY.tolerance, "default tolerance")


@pytest.mark.parametrize(("now", "status"), [(90.0, "unchanged"), (89.0, "regressed"), (111.0, "improved")])
def test_less_of_a_speed_is_worse(now: float, status: str) -> None:
    assert held_to(TENTH, SPEED, 100.0, now).status == status


@pytest.mark.parametrize(("now", "harm"), [(150.0, 0.5), (50.0, 0.5)])
def test_every_move_of_what_must_stay_is_harm(now: float, harm: float) -> None:
    assert held_to(TENTH, LOSS, 100.0, now).harm == harm


def test_a_move_is_told_relative_to_the_size_of_the_baseline() -> None:
    found = held_to(TENTH, LOSS, -100.0, -120.0)

    assert (found.change, found.limit, found.harm, found.reason) == (-0.2, 0.1, 0.2, "a test")


def test_the_larger_part_of_a_tolerance_counts() -> None:
    both = Limit(Tolerance(relative=0.1, absolute=30.0), "a test")

    assert held_to(both, MEMORY, 100.0, 130.0).limit == 0.3
    assert held_to(both, MEMORY, 1000.0, 1100.0).limit == 0.1


def test_a_move_from_zero_is_told_by_its_size() -> None:
    found = held_to(Limit(Tolerance(absolute=2.0), "a test"), MEMORY, 0, 5)

    assert (found.status, found.change, found.limit, found.harm) == ("regressed", None, None, 5)
    assert found.reason == "a test, at most 2 from a baseline of 0"


def test_processes_that_are_apart_near_zero_say_how_near_that_is() -> None:
    noisy, quiet = measured({"loss_first": 0.0001}, {"loss_first": 0.0004}), measured({"loss_first": 0.0001})
    near = spread(noisy, quiet, LOSS)

    assert held_to(limit_of(LOSS, same_environment=False), LOSS, 0.0001, 0.0003).status == "regressed"
    assert held_to(limit_of(LOSS, same_environment=False, spread=near), LOSS, 0.0001, 0.0003).status == "unchanged"


def test_a_tolerance_that_a_user_sets_stands_near_zero_too() -> None:
    assert held_to(Limit(Tolerance(absolute=0.01), "a test"), LOSS, 0.0001, 0.009).status == "unchanged"


@pytest.mark.parametrize(("before", "after"), [(math.nan, 1.0), (1.0, math.inf)])
def test_what_is_not_finite_is_open(before: float, after: float) -> None:
    found = held_to(TENTH, LOSS, before, after)

    assert (found.status in ("unchanged", "improved", "regressed"), found.reason) == (
        False,
        f"not finite: {before} -> {after}",
    )


@pytest.mark.parametrize(
    ("after", "device", "status"),
    [
        ((100, 130), 1, "regressed"),
        ((140, 130), 0, "regressed"),
        ((130, 50), 0, "regressed"),
        ((50, 100), 1, "unchanged"),
        ((50, 40), 0, "improved"),
    ],
)
def test_the_device_that_is_worst_off_decides(after: tuple[int, ...], device: int, status: str) -> None:
    found = held_to(TENTH, MEMORY, (100, 100), after)

    assert (found.device, found.status) == (device, status)


def test_a_single_device_has_no_number() -> None:
    assert held_to(TENTH, MEMORY, (100,), (130,)).device is None


@pytest.mark.parametrize(("before", "after"), [((1, 2), (1,)), ((1,), 1), (1, (1,)), ((), ())])
def test_values_of_other_devices_are_open(before: Value, after: Value) -> None:
    found = held_to(TENTH, MEMORY, before, after)

    assert found.status not in ("unchanged", "improved", "regressed")
    assert found.reason == f"not for the same devices: {before} -> {after}"


def test_processes_that_disagree_are_named_with_their_side_and_values() -> None:
    apart = measured({"kernels_per_sample": 101.0}, {"kernels_per_sample": 100.0}, {"kernels_per_sample": 101.0})
    agree = measured({"kernels_per_sample": 100.0})
    told = "processes do not agree on it: 100.0, 101.0; a tolerance of the row would decide"

    assert scatter(agree, apart, KERNELS) == f"the baseline's {told}"
    assert scatter(apart, agree, KERNELS) == f"the {told}"
    assert scatter(agree, agree, KERNELS) is None


@pytest.mark.parametrize(
    ("values", "agree"),
    [
        ([(0, 0), (0, int(PEAK.jitter))], True),
        ([(0, 0), (0, int(PEAK.jitter) + 1)], False),
        ([(0, 0), (int(PEAK.jitter) + 1, 0)], False),
        ([(0, 2**30), (0, 2**30)], True),
        ([(0, 0), (0,)], False),
    ],
)
def test_processes_agree_if_every_device_does_but_for_the_jitter(values: list[Value], *, agree: bool) -> None:
    found = measured(*({"peak_allocated_bytes": value} for value in values))

    assert (scatter(found, found, PEAK) is None) == agree
