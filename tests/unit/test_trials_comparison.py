"""What two sides come to: verdicts where a side lacks a library, packages that differ, moves in common, failures."""

from __future__ import annotations

from typing import Any

import pytest

from measurements import ended, good, measured, open_row
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict
from pytest_llmbench.reports.comparison import summary
from pytest_llmbench.schema.environment import PackageChange, Software
from pytest_llmbench.schema.measurement import Outcome
from pytest_llmbench.trials.comparison import Compared, Comparison, FailOn, fails, package_diff

UNCHANGED = RowVerdict(status="unchanged", reason="so")
GOOD, LACKING = measured(good({})), measured(ended("unavailable", "no bitsandbytes"))


def moved(metric: str, change: float | None, status: Any = "unchanged") -> MetricVerdict:
    return MetricVerdict(metric=metric, status=status, change=change, gates=True, reason="r")


def row(*metrics: MetricVerdict, a: Outcome = "ok", b: Outcome = "ok", verdict: RowVerdict = UNCHANGED) -> Compared:
    told = RowVerdict(status=verdict.status, reason=verdict.reason, metrics=metrics)
    return Compared(table="t", row="r", verdict=told, a=a, b=b)


def test_a_row_has_its_names_its_outcomes_and_its_pairs() -> None:
    found = Compared.of(("t", "r"), UNCHANGED, GOOD, measured(ended("oom")), 3)

    assert (found.table, found.row, found.name) == ("t", "r", "t[r]")
    assert (found.verdict, found.a, found.b, found.pairs) == (UNCHANGED, "ok", "oom", 3)
    assert found.told == "unchanged"


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (LACKING, GOOD, "unavailable in A: no bitsandbytes"),
        (GOOD, LACKING, "unavailable in B: no bitsandbytes"),
        (LACKING, LACKING, "unavailable in A and B: no bitsandbytes"),
        (
            LACKING,
            measured(ended("unavailable", "no GPTQ")),
            "unavailable in A: no bitsandbytes; unavailable in B: no GPTQ",
        ),
    ],
)
def test_a_row_says_which_side_lacks_a_library_and_is_never_green(a: Any, b: Any, reason: str) -> None:
    found = Compared.of(("t", "r"), open_row(), a, b)

    assert found.verdict.reason == reason
    status = "no baseline" if a is LACKING else "unmeasured"
    assert (found.told, found.verdict.status) == ("unavailable", status)


@pytest.mark.parametrize(("a", "b"), [("ok", "oom"), ("oom", "ok"), ("ok", "ok")])
def test_out_of_memory_is_measured(a: Outcome, b: Outcome) -> None:
    assert row(a=a, b=b).is_measured


@pytest.mark.parametrize(("a", "b"), [("ok", "crashed"), ("unavailable", "ok"), ("timeout", "timeout")])
def test_a_side_that_did_not_end_well_is_not_measured(a: Outcome, b: Outcome) -> None:
    assert not row(a=a, b=b).is_measured


def test_packages_that_differ_come_in_the_order_of_their_weight_and_the_others_are_counted() -> None:
    a = {"zlib": "1", "abc": "1", "transformers": "1", "torch": "1", "python": "3", "driver": "5", "same": "1"}
    b = {"zlib": "2", "abc": "2", "transformers": "2", "torch": "2", "python": "4", "driver": "6", "same": "1"}

    changes, same = package_diff(Software(a), Software(b))

    names = [change.name for change in changes]
    assert names[:2] == ["driver", "python"]
    assert set(names[2:4]) == {"torch", "transformers"}
    assert names[4:] == ["abc", "zlib"]
    assert same == 1


def test_a_package_of_one_side_is_a_change() -> None:
    assert package_diff(Software({"a": "1"}), Software({"b": "2"})) == (
        (PackageChange("a", "1", None), PackageChange("b", None, "2")),
        0,
    )


def test_verdicts_are_counted_each_by_its_word() -> None:
    told = summary([row(), row(), row(b="unavailable")])[0]

    assert told == "2 unchanged, 1 unavailable"


def test_the_mean_move_is_geometric_and_leaves_out_what_has_none() -> None:
    speed, busy = "samples_per_second", "device_busy_seconds_per_sample"
    rows = [
        row(moved(speed, 1.0), moved("loss_first", 0.5)),
        row(moved(speed, -0.5)),
        row(moved(speed, None), moved(busy, 0.1)),
        row(moved(speed, -1.0)),
    ]

    assert summary(rows)[1:] == ["geometric mean over the rows: samples/s +0.0 %, GPU work +10.0 %"]


def test_without_a_move_there_is_no_mean() -> None:
    assert summary([row(), row(moved("samples_per_second", None))]) == ["2 unchanged"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([0.05] * 20, "20 rows moved together: GPU work +5.0 % (+5.0 % to +5.0 %)"),
        ([0.04] * 8 + [0.05] * 8 + [0.06] * 8, "24 rows moved together: GPU work +5.0 % (+4.0 % to +6.0 %)"),
    ],
)
def test_a_move_of_all_rows_is_told_with_its_interval(changes: list[float], told: str) -> None:
    assert told in summary([row(moved("device_busy_seconds_per_sample", change)) for change in changes])


@pytest.mark.parametrize("changes", [[0.05] * 19, [0.05, -0.05] * 10, [0.0001] * 20])
def test_few_rows_or_moves_to_both_sides_or_tiny_ones_are_no_common_move(changes: list[float]) -> None:
    rows = [row(moved("device_busy_seconds_per_sample", change)) for change in changes]

    assert not any("moved together" in sentence for sentence in summary(rows))


def compared(*rows: Compared, one_sided: tuple[str, ...] = ()) -> Comparison:
    return Comparison(a="a", b="b", changes=(), num_unchanged=0, rows=rows, one_sided=one_sided)


def test_a_row_without_a_baseline_fails_where_everything_that_is_not_known_does() -> None:
    unknown = compared(row(verdict=RowVerdict(status="no baseline", reason="r")))

    assert fails(unknown, set(FailOn))
    assert not fails(unknown, {FailOn.REGRESSED, FailOn.MOVED})


def test_one_failing_row_of_several_is_enough() -> None:
    assert fails(compared(row(), row(verdict=RowVerdict(status="regressed", reason="r")), row()), {FailOn.REGRESSED})


def test_a_row_of_one_side_fails_where_everything_that_is_not_known_does() -> None:
    assert fails(compared(row(), one_sided=("t[r]",)), set(FailOn))
    assert not fails(compared(row(), one_sided=("t[r]",)), {FailOn.REGRESSED, FailOn.MOVED})
    assert not fails(compared(row()), set(FailOn))
