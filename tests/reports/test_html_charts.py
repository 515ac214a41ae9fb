"""Where marks lie: in percent, within the chart, and with nothing made up for what is not known."""

from __future__ import annotations

import math

import pytest

from pytest_llmbench.reports.html.charts import axis, lane, mean_interval, sparkline, strip
from pytest_llmbench.reports.html.kernels import kernels
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import KernelShare, Measurement, Process
from pytest_llmbench.schema.workload import Workload


def with_kernels(*shares: tuple[str, float, float]) -> Measurement:
    process = Process(outcome="ok", kernels=tuple(KernelShare(*share) for share in shares))
    return Measurement(
        case=Case.custom("m:f", name="mine"),
        workload=Workload(),
        environment=None,
        processes=(process,),
        measured_at="now",
    )


def test_an_axis_has_a_few_round_numbers() -> None:
    found = axis([0.0, 1.0])

    assert [tick.text for tick in found.ticks] == ["0.0", "0.5", "1.0"]
    assert found.at(0.5) == 50


def test_an_axis_writes_its_numbers_in_the_scale_that_is_shown() -> None:
    assert [tick.text for tick in axis([0.100, 0.110], scale=1e-3).ticks] == ["100", "105", "110"]


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-9, 2e-9], [-3.0, 4e12], [], [math.nan, 1.0, math.inf]])
def test_every_value_lies_on_the_axis(values: list[float]) -> None:
    found = axis(values)

    assert 1 <= len(found.ticks) <= 12
    assert all(0 <= found.at(value) <= 100 for value in values if math.isfinite(value))


def test_noise_of_nearly_equal_values_does_not_fill_the_axis() -> None:
    found = axis([100.0, 100.0001])

    assert abs(found.at(100.0) - found.at(100.0001)) < 1


def test_a_strip_shows_change_limit_and_interval_around_the_middle() -> None:
    found = strip(0.01, 0.02, (0.005, 0.015))

    assert found is not None
    assert found.low_limit == 50 - (found.high_limit - 50) == 26
    assert found.low is not None
    assert found.high is not None
    assert 50 < found.low < found.change < found.high < found.high_limit
    assert not found.clipped


def test_a_change_far_beyond_its_limit_lies_at_the_edge_and_says_so() -> None:
    found = strip(5.0, 0.02)

    assert found is not None
    assert (found.change, found.clipped) == (98, True)


def test_a_change_that_is_no_number_has_no_strip() -> None:
    assert strip(math.nan, 0.02) is None


def test_a_lane_tells_median_and_interval_in_words() -> None:
    values = [1.0, 1.1, 1.2]

    assert lane("now", "now", values, axis(values), form="{:.2f}").told == "1.10 (0.85 to 1.35)"


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_two_processes_have_no_interval(values: list[float]) -> None:
    assert mean_interval(values) is None


def test_the_interval_is_that_of_student() -> None:
    interval = mean_interval([9.0, 10.0, 11.0])

    assert interval == pytest.approx((10 - 4.3027 / math.sqrt(3), 10 + 4.3027 / math.sqrt(3)), abs=1e-3)


def test_a_sparkline_breaks_where_a_run_has_no_value() -> None:
    assert [len(stretch) for stretch in sparkline([1.0, 1.0, None, 2.0])] == [2, 1]


def test_one_value_is_no_line() -> None:
    assert sparkline([None, 1.0]) == ()


def test_kernels_of_both_sides_are_held_against_each_other() -> None:
    found = kernels(with_kernels(("gemm", 10, 0.01), ("copy", 4, 0.001)), with_kernels(("gemm", 12, 0.02)))

    assert found is not None
    gemm, copy = found.lines
    assert (gemm.before, gemm.now, gemm.change, gemm.launches) == (
        "10.00",
        "20.00",
        "+100.0 %",
        "10 \N{RIGHTWARDS ARROW} 12",
    )
    assert (copy.before, copy.now, copy.change) == ("1.00", "", "gone")


def test_many_small_kernels_are_one_line() -> None:
    found = kernels(None, with_kernels(*((f"k{number}", 1, 0.001) for number in range(20)), ("other", 5, 0.5)))

    assert found is not None
    assert [line.name for line in found.lines][-1] == "other"
    assert found.lines[-1].now == "508.00"
    assert len(found.lines) == 13


def test_without_kernels_there_is_nothing_to_show() -> None:
    assert kernels(with_kernels(("gemm", 1, 1.0)), with_kernels()) is None
