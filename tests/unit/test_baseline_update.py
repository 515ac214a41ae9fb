"""Which verdicts which update mode records."""

from __future__ import annotations

from typing import get_args

import pytest

from pytest_llmbench.judge.verdict import RowVerdict, Status
from pytest_llmbench.store.update import UpdateMode, should_record

ALL: tuple[Status, ...] = get_args(Status)


@pytest.mark.parametrize(
    ("mode", "recorded"),
    [
        ("missing", {"no baseline"}),
        ("failing", {"no baseline", "regressed", "not comparable"}),
        ("moved", {"no baseline", "regressed", "not comparable", "improved"}),
        ("all", {"no baseline", "regressed", "not comparable", "improved", "unchanged"}),
    ],
)
def test_a_mode_records_what_it_says(mode: UpdateMode, recorded: set[Status]) -> None:
    assert {status for status in ALL if should_record(mode, RowVerdict(status=status, reason="r"))} == recorded


@pytest.mark.parametrize("mode", get_args(UpdateMode))
@pytest.mark.parametrize("status", ["undecided", "unmeasured"])
def test_what_is_undecided_or_unmeasured_is_not_recorded(mode: UpdateMode, status: Status) -> None:
    assert not should_record(mode, RowVerdict(status=status, reason="r"))
