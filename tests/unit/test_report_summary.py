"""What a run came to, in sentences."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

import surroundings
from pytest_llmbench.judge.verdict import RowVerdict, Status
from pytest_llmbench.reports.summary import not_run, totals, unavailable
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.workload import Scale, Workload
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.results import Result

ENVIRONMENT = surroundings.environment(device="H200", num_cpus=16, system="Linux 6.8")


def result(table: str, row: str, status: Status = "unchanged", scale: Scale = "full") -> Result:
    return Result(
        nodeid=row,
        table=table,
        row=row,
        measurement=Measurement(
            case=Case.custom("m:f", name=row),
            workload=Workload(scale=scale),
            environment=ENVIRONMENT,
            processes=(Process(outcome="ok", metrics={"samples_per_second": 1.0}),),
            measured_at="now",
        ),
        verdict=RowVerdict(status=status, reason="r"),
        decision="pass",
        message="",
        seconds=62.5,
    )


@pytest.fixture
def store(tmp_path: Path) -> BaselineStore:
    """Two rows of table `one` and one of `two`, at full scale; one of `small` at smoke scale."""
    store = BaselineStore(tmp_path)
    for table, row in (("one", "a"), ("one", "b"), ("two", "c")):
        store.record(table, row, result(table, row).measurement, "because")
    store.record("small", "d", result("small", "d", scale="smoke").measurement, "because")
    return store


def test_totals_count_what_became_of_the_rows() -> None:
    results = [result("one", "a"), result("one", "b", "regressed"), result("two", "c")]

    assert totals(results) == "1 regressed, 2 unchanged; 3 min 07 s of measuring"


@pytest.mark.parametrize(
    "statuses", list(itertools.permutations(["unchanged", "regressed", "improved", "undecided", "unmeasured"]))
)
def test_totals_come_in_one_order_whatever_the_order_of_the_rows(statuses: tuple[Status, ...]) -> None:
    results = [result("one", status, status) for status in statuses]

    assert totals(results).startswith("1 regressed, 1 unmeasured, 1 undecided, 1 improved, 1 unchanged; ")


def test_totals_of_nothing_say_so() -> None:
    assert totals([]) == "no case was measured"


def test_what_could_not_be_measured_is_told_once_for_each_reason() -> None:
    def lacks(row: str, library: str) -> Result:
        process = Process(outcome="unavailable", reason=f"{library} is not installed")
        done = result("one", row)
        return msgspec.structs.replace(
            done, measurement=msgspec.structs.replace(done.measurement, processes=(process,))
        )

    assert unavailable(
        [result("one", "a"), lacks("b", "flash-attn"), lacks("c", "gptqmodel"), lacks("d", "gptqmodel")]
    ) == [
        "unavailable, 1 row: flash-attn is not installed",
        "unavailable, 2 rows: gptqmodel is not installed",
    ]


def test_nothing_is_missing_where_every_row_ran(store: BaselineStore) -> None:
    assert not_run(store, [result("one", "a"), result("one", "b"), result("two", "c")]) == []


def test_rows_and_tables_that_nobody_ran_are_named(store: BaselineStore) -> None:
    assert not_run(store, [result("one", "b")]) == [
        "one: not run, of 2 rows with a baseline: a",
        "tables with a baseline of which no row was run: h200/two (1 row)",
    ]


def test_only_the_scale_of_the_run_counts(store: BaselineStore) -> None:
    assert not_run(store, [result("small", "d", scale="smoke")]) == []


def test_a_row_that_does_not_know_its_device_has_run(store: BaselineStore) -> None:
    crashed = result("one", "a")
    crashed = msgspec.structs.replace(
        crashed, measurement=msgspec.structs.replace(crashed.measurement, environment=None)
    )

    assert not_run(store, [crashed, result("one", "b"), result("two", "c")]) == []


def test_a_damaged_baseline_is_passed_over(store: BaselineStore) -> None:
    (store.root / "h200" / "two.json").write_text("{")

    assert not_run(store, [result("one", "a"), result("one", "b")]) == []


def test_without_a_device_nothing_can_be_said(store: BaselineStore) -> None:
    assert not_run(store, []) == []
