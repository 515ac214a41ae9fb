from __future__ import annotations

import pytest

from pytest_llmbench.schema.units import gib, percent, seconds


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.00"), (2**30, "1.00"), (27 * 2**30 + 2**28, "27.25"), (5 * 2**20, "0.00")]
)
def test_gib_has_two_decimals(count: int, text: str) -> None:
    assert gib(count) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0, "+0.0 %"),
        (0.031, "+3.1 %"),
        (-0.5, "-50.0 %"),
        (0.001, "+0.1 %"),
        (0.0009, "+0.09 %"),
        (-0.00012, "-0.01 %"),
        (12.0, "+1200.0 %"),
    ],
)
def test_percent_is_signed_and_shows_small_changes(ratio: float, text: str) -> None:
    assert percent(ratio) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.0, "0.00 s"),
        (0.424, "0.42 s"),
        (9.994, "9.99 s"),
        (12.4, "12 s"),
        (119.4, "119 s"),
        (120, "2 min 00 s"),
        (185, "3 min 05 s"),
        (7200, "120 min 00 s"),
    ],
)
def test_seconds_read_at_a_glance(duration: float, text: str) -> None:
    assert seconds(duration) == text
