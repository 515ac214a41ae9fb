"""The figures of a metric as text."""

from __future__ import annotations

import pytest

from pytest_llmbench.judge.values import number_text, number_texts
from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.schema.metrics import Value

GIB = 2**30


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("samples_per_second", None, ""),
        ("samples_per_second", 2.123456, "2.123"),
        ("kernels_per_sample", 9999.4, "9,999"),
        ("kernels_per_sample", 9999.5, "10,000"),
        ("kernels_per_sample", -12345.6, "-12,346"),
        ("device_busy_seconds_per_sample", 1.234567, "1,234.57"),
        ("peak_reserved_bytes", 3 * GIB, "3.00"),
        ("peak_reserved_bytes", (3 * GIB, 4 * GIB), "3.00+4.00"),
        ("of_another_package", 1.5, "1.5"),
    ],
)
def test_a_value_is_told_in_the_unit_of_its_metric(metric: str, value: Value | None, text: str) -> None:
    assert number_text(metric, value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("samples_per_second", 2.123456, "2.1235"),
        ("kernels_per_sample", 12345.67, "12,345.7"),
        ("device_busy_seconds_per_sample", 1.234567, "1,234.567"),
        ("peak_reserved_bytes", 3 * GIB, "3.000"),
    ],
)
def test_a_digit_more_is_told_on_request(metric: str, value: Value, text: str) -> None:
    assert number_text(metric, value, 1) == text


def test_values_that_differ_are_told_apart() -> None:
    one = MetricVerdict(
        metric="samples_per_second", status="unchanged", baseline=2.00001, now=2.00002, gates=True, reason="r"
    )

    assert number_texts(one) == ("2.00001", "2.00002")
