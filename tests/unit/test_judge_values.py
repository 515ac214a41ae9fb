"""The figure of a process, the typical one of several, and the logarithms that a speed is judged by."""

from __future__ import annotations

import math

import pytest

from measurements import BUSY, LOSS, SPEED, ended, good, measured
from pytest_llmbench.judge.values import logarithms, process_value, typical_value, values
from pytest_llmbench.schema.measurement import Process, Round
from pytest_llmbench.schema.metrics import Value


def rounds(*seconds: float, samples: int = 4, tokens: int = 100) -> Process:
    return good({SPEED: 9.0}, rounds=tuple(Round(one, samples, tokens) for one in seconds))


def test_processes_that_failed_or_lack_the_metric_have_no_value() -> None:
    found = measured(good({LOSS: 1.0}), ended("crashed"), good({}), good({LOSS: 3.0}))

    assert values(found, LOSS) == [1.0, 3.0]


def test_a_speed_is_the_median_of_rounds_that_repeat_each_other() -> None:
    assert process_value(rounds(2.0, 1.0, 4.0), SPEED) == 2.0


def test_of_two_rounds_the_median_is_the_geometric_mean() -> None:
    assert process_value(rounds(1.0, 4.0), SPEED) == pytest.approx(2.0)


def test_of_four_rounds_the_median_is_between_the_two_in_the_middle() -> None:
    assert process_value(rounds(0.1, 1.0, 4.0, 100.0), SPEED) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "process",
    [
        good({SPEED: 9.0}),
        good({SPEED: 9.0}, rounds=(Round(1.0, 4, 100), Round(1.0, 4, 101))),
        good({SPEED: 9.0}, rounds=(Round(1.0, 4, 100), Round(1.0, 5, 100))),
        rounds(1.0, 0.0),
        rounds(1.0, 1.0, samples=0),
    ],
)
def test_else_a_speed_is_that_of_all_rounds_together(process: Process) -> None:
    assert process_value(process, SPEED) == 9.0


def test_other_metrics_have_nothing_to_do_with_the_rounds() -> None:
    assert process_value(good({BUSY: 9.0}, rounds=rounds(1.0, 1.0).rounds), BUSY) == 9.0


@pytest.mark.parametrize(("metric", "value"), [(BUSY, None), (LOSS, 0.0), ("of_another_package", 0.0)])
def test_a_counter_that_reads_0_is_missing_and_other_zeros_are_values(metric: str, value: float | None) -> None:
    assert process_value(good({metric: 0.0}), metric) == value


@pytest.mark.parametrize(
    ("metric", "found", "typical"),
    [
        (LOSS, [1.0, 2.0, 9.0], 2.0),
        (BUSY, [1.0, 4.0], 2.0),
        (BUSY, [-1.0, 4.0], 1.5),
        ("of_another_package", [1.0, 4.0], 2.5),
        ("peak_reserved_bytes", [(1, 10), (3, 20), (2, 90)], (2, 20)),
        ("peak_reserved_bytes", [(1, 10), (3,)], ()),
        ("peak_reserved_bytes", [(1, 10), 3], ()),
        (LOSS, [], None),
    ],
)
def test_the_typical_value_is_a_median_and_of_a_speed_the_geometric_mean(
    metric: str, found: list[Value], typical: Value | None
) -> None:
    assert typical_value(measured(good({}), *({metric: one} for one in found)), metric) == pytest.approx(typical)


def test_the_typical_value_of_one_process_is_its_own_to_the_last_digit() -> None:
    assert typical_value(measured({BUSY: 0.1}), BUSY) == 0.1


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_one_value_that_is_not_finite_makes_the_typical_one_unknown(odd: float) -> None:
    found = typical_value(measured({LOSS: 1.0}, {LOSS: odd}, {LOSS: 1.0}), LOSS)

    assert isinstance(found, float)
    assert math.isnan(found)


def test_every_process_has_its_logarithm() -> None:
    assert logarithms(measured({BUSY: 1.0}, ended("crashed"), {BUSY: math.e}), BUSY) == (0.0, 1.0)
    assert logarithms(measured({LOSS: 1.0}), BUSY) == ()


@pytest.mark.parametrize("value", [-1.0, 0.0, math.nan, math.inf, (1, 2)])
def test_one_value_without_a_logarithm_leaves_none(value: Value) -> None:
    assert logarithms(measured({LOSS: 1.0}, {LOSS: value}), LOSS) is None


def test_the_speed_of_a_round_is_its_own_to_the_last_digit() -> None:
    assert process_value(rounds(1 / 7), SPEED) == 4 / (1 / 7)
