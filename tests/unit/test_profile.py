"""A profile: what is united where there is no room, and what never is."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from pytest_llmbench.schema.profile import OTHER, Call, Operation, Part, Profile, add_to, as_numbers, bounded


def profile(places: int, *, reads: int = 0) -> Profile:
    """As many places as asked, each with one operator that moves ten bytes more than the one before."""
    operators = {f"file.py:function_{number}": {"add": f"2 {10 * number} 0 0"} for number in range(places)}
    if reads:
        operators["file.py:reading"] = {"_local_scalar_dense": f"1 1 0 {reads}"}
    python = {"file.py": {f"function_{number}": f"3 {100 + number}" for number in range(places)}}
    return Profile(samples=1, samples_per_step=16, micro_batch=Part(operators=operators, python=python))


def summed(counts: Iterable[tuple[int, ...]]) -> list[int]:
    return list(map(sum, zip(*counts, strict=True)))


def size(one: Profile) -> int:
    return len(msgspec.json.encode(one))


def test_a_profile_that_has_room_stays_as_it_is() -> None:
    assert bounded(profile(10)) == profile(10)


@pytest.mark.parametrize("most_bytes", [2000, 5000])
def test_a_profile_is_made_to_fit_and_says_how_many_entries_it_left_out(most_bytes: int) -> None:
    fitting = bounded(profile(300), most_bytes)

    assert size(fitting) <= most_bytes
    assert fitting.left_out > 0


def test_what_is_left_out_is_summed_up() -> None:
    whole, fitting = profile(300), bounded(profile(300), 5000)

    sums = [
        (summed(done for *_, done in part.operations()), summed(call for _, call in part.calls("python")))
        for part in (whole.micro_batch, fitting.micro_batch)
    ]
    assert sums[0] == sums[1]


def test_what_costs_least_is_left_out_first() -> None:
    kept = {place for place, *_ in bounded(profile(300), 5000).micro_batch.operations()} - {OTHER}

    assert "file.py:function_299" in kept
    assert "file.py:function_0" not in kept


def test_a_host_read_is_never_left_out() -> None:
    kept = {place for place, *_ in bounded(profile(300, reads=1), 2000).micro_batch.operations()}

    assert "file.py:reading" in kept


def test_entries_are_read_as_they_were_written() -> None:
    listing: dict[str, dict[str, list[int]]] = {}
    add_to(listing, ("file.py:f", "mm"), Operation(1, 2, 3, 0))
    add_to(listing, ("file.py:f", "mm"), Operation(1, 2, 3, 0))
    calls: dict[str, dict[str, list[int]]] = {}
    add_to(calls, ("file.py", "f"), Call(4, 5))

    part = Part(operators=as_numbers(listing), python=as_numbers(calls))

    assert list(part.operations()) == [("file.py:f", "mm", Operation(2, 4, 6, 0))]
    assert list(part.calls("python")) == [("file.py:f", Call(4, 5))]


@pytest.mark.parametrize("numbers", ["", "1 -2", "one", "1  2", "1 2 "])
def test_numbers_that_are_none_are_refused(numbers: str) -> None:
    raw = msgspec.to_builtins(profile(1)) | {"micro_batch": {"operators": {"f.py:f": {"mm": numbers}}}}

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(raw, Profile)
