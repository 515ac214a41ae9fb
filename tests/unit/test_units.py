from __future__ import annotations

import math

import pytest

from pytest_llmbench.schema.units import about, apart, gib, percent, seconds, size


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
    [(0.02, "1 s"), (8.54, "9 s"), (99, "99 s"), (110, "2 min"), (5000, "83 min"), (9000, "2.5 h")],
)
def test_an_estimate_is_rounded_as_one(duration: float, text: str) -> None:
    assert about(duration) == text


@pytest.mark.parametrize("numbers", [(1787.5, 1788.5), (1.0, 1.0 + 2**-52), (0, 5e-8)])
def test_two_figures_that_differ_are_told_apart(numbers: tuple[float, float]) -> None:
    one, other = apart(*numbers, lambda number, more: f"{number:.{more}f}")

    assert one != other


def test_figures_that_are_equal_have_no_more_digits_than_usual() -> None:
    assert apart(2, 2.0, lambda number, more: f"{number:.{1 + more}f}") == ("2.0", "2.0")


@pytest.mark.parametrize("numbers", [(math.nan, math.nan), (math.inf, math.inf), (None, None)])
def test_figures_that_no_digits_tell_apart_read_as_usual(numbers: tuple[float | None, float | None]) -> None:
    assert apart(*numbers, lambda number, _: str(number)) == (str(numbers[0]), str(numbers[0]))


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


@pytest.mark.parametrize(
    ("count", "text"), [(812, "812 B"), (64 * 2**20, "64 MiB"), (1023 * 2**20, "1,023 MiB"), (3 * 2**29, "1.50 GiB")]
)
def test_a_size_is_in_the_largest_unit_that_it_fills(count: int, text: str) -> None:
    assert size(count) == text
