"""What a line may hold that msgspec lets pass."""

from __future__ import annotations

import pytest

from pytest_llmbench.schema.strict import flaw_of_decoded


@pytest.mark.parametrize("number", ["0.00016200103680663556", "-1.0000000000000000000001", "1e-5"])
def test_a_line_with_a_long_fraction_is_not_looked_through(number: str) -> None:
    assert flaw_of_decoded(f'{{"limit":{number}}}'.encode(), object()) is None


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1" * 400])
def test_a_whole_number_of_more_than_64_bits_is_found(number: str) -> None:
    line = f'{{"limit":{number}}}'.encode()

    flaw = flaw_of_decoded(line, {"limit": int(number)})

    assert flaw is not None
    assert flaw.place == ("limit",)
