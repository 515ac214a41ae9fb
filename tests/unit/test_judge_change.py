"""The change of a metric is that of the two figures beside it, whatever processes and rounds there were."""

from __future__ import annotations

from csv import DictReader
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import measurements
import surroundings
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.values import number_text, process_value, typical_value
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict
from pytest_llmbench.reports.export import csv
from pytest_llmbench.schema.measurement import Measurement, Process, Round
from pytest_llmbench.schema.metrics import METRICS, NOTHING_SEEN, Value
from pytest_llmbench.schema.units import percent
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.results import Result

SPEED, OPERATORS = "samples_per_second", "operators_per_sample"
ENVIRONMENT = surroundings.environment(device="cpu", python="3.11")
figures = st.floats(1e-3, 1e6)
seconds = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4)


def process(rounds: list[float], metrics: dict[str, Value], *, equal: bool = True) -> Process:
    """Its speed is that of all samples over all seconds, as it is measured."""
    done = tuple(Round(each, 4, 100 if equal else 100 + number) for number, each in enumerate(rounds))
    return Process(outcome="ok", rounds=done, metrics={**metrics, SPEED: 4 * len(rounds) / sum(rounds)})


def measured(*processes: Process) -> Measurement:
    return measurements.measured(*processes, workload=Workload(scale="smoke", device="cpu"), environment=ENVIRONMENT)


@st.composite
def sides(draw: st.DrawFn) -> tuple[Measurement, Measurement]:
    """As many processes on both sides."""
    equal, count = draw(st.booleans()), draw(st.integers(1, 4))

    def side() -> Measurement:
        names = [name for name, metric in METRICS.items() if metric.unit != "B" and metric.gate != "workload"]
        return measured(
            *(
                process(
                    draw(seconds),
                    {**{name: draw(figures) for name in names}, "peak_reserved_bytes": (draw(st.integers(1, 10**12)),)},
                    equal=equal,
                )
                for _ in range(count)
            )
        )

    return side(), side()


def number(value: Value | None, device: int | None) -> float:
    chosen = value[device or 0] if isinstance(value, tuple) else value
    assert chosen is not None
    return chosen


@settings(deadline=None)
@given(sides())
def test_every_change_is_that_of_its_figures(pair: tuple[Measurement, Measurement]) -> None:
    before, now = pair
    for verdict in (judge(now, Reference(measurement=before)), judge_pair(before, now)):
        told = [one for one in verdict.metrics if one.change is not None]
        assert SPEED in {one.metric for one in told}
        for one in told:
            expected = number(one.now, one.device) / number(one.baseline, one.device) - 1
            assert one.change == pytest.approx(expected, rel=1e-9, abs=1e-9), one.metric


def speed_of(verdict: RowVerdict) -> MetricVerdict:
    return next(one for one in verdict.metrics if one.metric == SPEED)


def test_a_stall_in_one_of_the_rounds_is_in_no_figure() -> None:
    """Seen as 3877 -> 14952 samples/s, +14.1 %."""
    before, now = measured(process([1.0, 1.0, 10.0], {})), measured(process([0.8, 0.8, 0.8], {}))

    speed = speed_of(judge(now, Reference(measurement=before)))

    shown = [number_text(SPEED, speed.baseline), number_text(SPEED, speed.now), percent(speed.change or 0.0)]
    assert shown == ["4", "5", "+25.0 %"]


def test_rounds_of_other_work_count_all_together() -> None:
    taken = measured(process([1.0, 3.0], {}, equal=False))

    assert typical_value(taken, SPEED) == 2.0


def test_an_export_has_the_figure_that_the_change_beside_it_is_of() -> None:
    before, now = measured(process([1.0, 1.0, 10.0], {})), measured(process([0.8, 0.8, 8.0], {}))
    verdict = judge(now, Reference(measurement=before))
    result = Result(
        nodeid="n", table="t", row="r", measurement=now, verdict=verdict, decision="pass", message="", seconds=1.0
    )

    [line] = [line for line in DictReader(StringIO(csv.export([result]))) if line["metric"] == SPEED]

    assert float(line["value"]) == 5.0
    assert float(line["change"]) == pytest.approx(0.25)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.never_zero])
def test_a_counter_that_reads_0_is_missing(name: str) -> None:
    assert process_value(process([1.0], {name: 0.0}), name) is None


def test_a_counter_that_reads_0_now_is_no_improvement_and_fails() -> None:
    before, now = (measured(process([1.0], {OPERATORS: count})) for count in (10.0, 0.0))

    verdict = judge(now, Reference(measurement=before))

    [one] = [one for one in verdict.metrics if one.metric == OPERATORS]
    assert (one.status, one.now, one.reason) == ("unmeasured", None, f"not measured: {NOTHING_SEEN}")
    assert verdict.failed


def test_a_counter_that_read_0_in_the_baseline_fails_and_asks_for_another_baseline() -> None:
    before, now = (measured(process([1.0], {OPERATORS: count})) for count in (0.0, 10.0))

    verdict = judge(now, Reference(measurement=before))

    assert verdict.failed
    [one] = [one for one in verdict.metrics if one.metric == OPERATORS]
    assert one.reason.endswith("record the baseline again")


def test_a_counter_that_reads_0_on_both_sides_says_nothing() -> None:
    row: dict[str, Value] = {OPERATORS: 0.0, "parameters": 3}

    verdict = judge(measured(process([1.0], row)), Reference(measurement=measured(process([1.0], row))))

    assert verdict.status == "unchanged"
    assert OPERATORS not in {one.metric for one in verdict.metrics}


def test_the_median_of_two_rounds_is_on_a_scale_of_logarithms() -> None:
    now = measured(process([1.0, 4.0], {}))

    assert typical_value(now, SPEED) == pytest.approx(2.0)
