"""Tolerances as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmbench.judge.tolerance import ToleranceError, parse_tolerance, parse_tolerances
from pytest_llmbench.schema.metrics import METRICS, Tolerance

unhurried = settings(deadline=None)
"""A machine shared with other work is no fault of the code."""


@pytest.mark.parametrize(
    ("text", "metric", "tolerance"),
    [
        ("samples_per_second=8%", "samples_per_second", Tolerance(0.08)),
        ("samples_per_second = 2.5 %", "samples_per_second", Tolerance(0.025)),
        ("loss_first=0.05", "loss_first", Tolerance(0.0, 0.05)),
        ("loss_first=1%+0.05", "loss_first", Tolerance(0.01, 0.05)),
        ("loss_first=1e-3", "loss_first", Tolerance(0.0, 0.001)),
        ("loss_first=0", "loss_first", Tolerance()),
        ("peak_reserved_bytes=2%+64MiB", "peak_reserved_bytes", Tolerance(0.02, 64 * 2**20)),
        ("peak_reserved_bytes=64mib + 2%", "peak_reserved_bytes", Tolerance(0.02, 64 * 2**20)),
        ("peak_reserved_bytes=.5GiB", "peak_reserved_bytes", Tolerance(0.0, 2**29)),
        ("peak_reserved_bytes=4KiB", "peak_reserved_bytes", Tolerance(0.0, 4096)),
        ("peak_reserved_bytes=1000", "peak_reserved_bytes", Tolerance(0.0, 1000)),
    ],
)
def test_a_limit_is_relative_absolute_or_both(text: str, metric: str, tolerance: Tolerance) -> None:
    assert parse_tolerance(text) == (metric, tolerance)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("samples_per_second", "is not of the form METRIC=LIMIT"),
        ("", "is not of the form METRIC=LIMIT"),
        ("sample_per_second=8%", "unknown metric 'sample_per_second'; did you mean 'samples_per_second'?"),
        ("xyz=8%", "unknown metric 'xyz'; known: samples_per_second, "),
        ("loss_first=", "'' is not a limit; write it as 8%"),
        ("loss_first=much", "'much' is not a limit"),
        ("loss_first=nan", "'nan' is not a limit"),
        ("loss_first=inf", "'inf' is not a limit"),
        ("loss_first=1e999", "'1e999' is not a limit"),
        ("loss_first=-1%", "'-1%' is not a limit"),
        ("loss_first=1,5%", "'1,5%' is not a limit"),
        ("loss_first=1%+", "'' is not a limit"),
        ("loss_first=1%+2%", "has two relative parts"),
        ("loss_first=1+2", "has two absolute parts"),
        ("loss_first=2MiB", "'2MiB' is in bytes, the metric is not"),
        ("peak_reserved_bytes=2MB", "'2MB' is not a limit"),
    ],
)
def test_what_is_no_tolerance_is_refused_with_its_text(text: str, message: str) -> None:
    with pytest.raises(ToleranceError) as caught:
        parse_tolerance(text)

    assert repr(text) in str(caught.value)
    assert message in str(caught.value)


@unhurried
@given(st.sampled_from(tuple(METRICS)) | st.text(max_size=10), st.text(max_size=12))
def test_arbitrary_text_raises_nothing_but_a_tolerance_error(metric: str, limit: str) -> None:
    try:
        _, tolerance = parse_tolerance(f"{metric}={limit}")
    except ToleranceError:
        return
    assert tolerance.relative >= 0
    assert tolerance.absolute >= 0


def test_the_later_of_two_counts() -> None:
    assert parse_tolerances(["loss_first=1", "loss_first=2", " "]) == {"loss_first": Tolerance(0.0, 2.0)}
