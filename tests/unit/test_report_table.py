"""The table that every report renders: which lines and columns a row has, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

import measurements
import surroundings
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.values import number_text
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.reports.table import Line, ReportTable, report_tables
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Outcome, Process, joined
from pytest_llmbench.schema.metrics import METRICS, Metric, Value
from pytest_llmbench.store.results import Result
from pytest_llmbench.tables import TABLES

GIB = 2**30
ENVIRONMENT = surroundings.environment(num_cpus=16, system="Linux 6.8")
SAME: dict[str, Value] = {
    "samples_per_second": 2.0,
    "device_busy_seconds_per_sample": 0.25,
    "peak_reserved_bytes": (4 * GIB,),
    "kernels_per_sample": 100.0,
}


def measured(metrics: dict[str, Value], case: Case, outcome: Outcome = "ok") -> Measurement:
    process = Process(outcome=outcome, reason=None if outcome == "ok" else "a reason", metrics=metrics)
    return measurements.measured(process, case=case, environment=ENVIRONMENT)


def result(
    table: str = "speed",
    row: str = "a",
    *,
    case: Case | None = None,
    before: dict[str, Value] | None = SAME,
    now: dict[str, Value] | None = None,
    outcome: Outcome = "ok",
    **changes: Any,
) -> Result:
    """A row that is SAME unless *now* says otherwise; *before* is None for a row without a baseline."""
    case = case or Case.custom("m:f", name=row)
    measurement = measured({**SAME, **(now or {})} if outcome == "ok" else {}, case, outcome)
    verdict = judge(measurement, Reference(measurement=measured(before, case)) if before is not None else None)
    default = Result(
        nodeid=f"t.py::test_{table}[{row}]",
        table=table,
        row=row,
        measurement=measurement,
        verdict=verdict,
        decision="fail" if verdict.failed else "pass",
        message="",
        seconds=1.0,
    )
    return msgspec.structs.replace(default, **changes)


def the_table(*results: Result) -> ReportTable:
    (table,) = report_tables(results)
    return table


def published(table: str, rows: Iterable[int]) -> list[Result]:
    chosen = [TABLES[table].rows[index] for index in rows]
    return [result(table, row.id, case=row.case) for row in chosen]


def cells(line: Line) -> tuple[str, ...]:
    return (*line.row, line.metric, line.baseline, line.now, line.change, line.limit, line.verdict)


def test_a_row_begins_with_its_verdict_and_shows_the_headlines() -> None:
    assert [cells(line) for line in the_table(result()).lines] == [
        ("a", "4 metrics", "", "", "", "", "unchanged"),
        ("", "samples/s", "2", "2", "+0.0 %", "±5.8 %", "unchanged"),
        ("", "GPU ms/sample", "250.00", "250.00", "+0.0 %", "±2.5 %", "unchanged"),
        ("", "GPU GiB", "4.00", "4.00", "+0.0 %", "±2.0 %", "unchanged"),
    ]


def test_metrics_that_moved_are_shown_beside_the_headlines() -> None:
    lines = the_table(result(now={"kernels_per_sample": 110.0})).lines

    assert cells(lines[3]) == ("", "kernels/sample", "100", "110", "+10.0 %", "exact", "regressed")
    assert lines[0].verdict == "regressed"


def test_memory_of_several_gpus_is_a_sum_of_each() -> None:
    both: dict[str, Value] = {**SAME, "peak_reserved_bytes": (4 * GIB, 3 * GIB)}

    lines = the_table(result(before=both, now={"peak_reserved_bytes": (4 * GIB, 6 * GIB)})).lines

    assert cells(lines[3])[2:] == ("4.00+3.00", "4.00+6.00", "+100.0 %", "±2.1 %", "regressed")


def test_a_row_without_a_baseline_shows_what_it_measured() -> None:
    assert [cells(line) for line in the_table(result(before=None)).lines] == [
        ("a", "samples/s", "", "2", "", "", "no baseline"),
        ("", "GPU ms/sample", "", "250.00", "", "", ""),
        ("", "GPU GiB", "", "4.00", "", "", ""),
    ]


def test_a_row_without_a_baseline_shows_what_its_processes_have_in_common() -> None:
    one = result(before=None)
    first, other = (measured(SAME | {"samples_per_second": speed}, one.measurement.case) for speed in (2.0, 8.0))
    both = msgspec.structs.replace(one, measurement=joined(first, other))

    assert cells(the_table(both).lines[0])[1:4] == ("samples/s", "", "4")


def test_a_row_that_measured_no_headline_is_still_a_row() -> None:
    without = result(before=None)
    bare = msgspec.structs.replace(without, measurement=measured({}, without.measurement.case))

    assert [cells(line) for line in the_table(bare).lines] == [("a", "", "", "", "", "", "no baseline")]


@pytest.mark.parametrize("outcome", ["oom", "crashed", "timeout", "diverged", "invalid", "unavailable"])
def test_a_row_that_did_not_end_well_is_one_line_with_its_outcome(outcome: Outcome) -> None:
    verdict = "unmeasured" if outcome in ("invalid", "unavailable") else "regressed"

    assert [cells(line) for line in the_table(result(outcome=outcome)).lines] == [
        ("a", outcome, "", "", "", "", verdict),
    ]


@pytest.mark.parametrize(("changes", "word"), [({"decision": "skip"}, "skipped"), ({"recorded": True}, "recorded")])
def test_what_became_of_the_row_stands_for_its_verdict(changes: dict[str, Any], word: str) -> None:
    assert the_table(result(before=None, **changes)).lines[0].verdict == word


def test_a_metric_that_cannot_fail_is_advisory() -> None:
    cpu = msgspec.structs.replace(ENVIRONMENT, device="cpu")
    of_cpu = msgspec.structs.replace(
        measured({"samples_per_second": 2.0, "loss_first": 1.0}, Case.custom("m:f", name="a")), environment=cpu
    )
    verdict = judge(of_cpu, Reference(measurement=of_cpu))

    line = the_table(result(measurement=of_cpu, verdict=verdict)).lines[1]

    assert (line.metric, line.limit, line.verdict) == ("samples/s", "", "advisory")


@pytest.mark.parametrize(
    ("metric", "before", "now", "texts"),
    [
        ("kernels_per_sample", 1787.5, 1788.5, ("1,787.5", "1,788.5")),
        ("kernels_per_sample", 1788.0, 1788.06, ("1,788", "1,788.1")),
        ("kernels_per_sample", 7_725_518_848.0, 7_725_518_848.25, ("7,725,518,848.0", "7,725,518,848.2")),
        ("device_busy_seconds_per_sample", 0.25, 0.2500001, ("250.0000", "250.0001")),
        ("peak_reserved_bytes", (4 * GIB, 3 * GIB), (4 * GIB, 3 * GIB + 2**21), ("4.000+3.000", "4.000+3.002")),
    ],
)
def test_two_figures_that_differ_read_differently(
    metric: str, before: Value, now: Value, texts: tuple[str, str]
) -> None:
    lines = the_table(result(before={**SAME, metric: before}, now={metric: now})).lines
    shown = [(line.baseline, line.now) for line in lines if line.metric == METRICS[metric].title]

    # One that is within its limit is shown where it is a headline.
    assert shown == [texts]


def test_equal_figures_have_their_usual_digits() -> None:
    assert {line.now for line in the_table(result(now={"samples_per_second": 2})).lines} == {"", "2", "250.00", "4.00"}


@pytest.mark.parametrize(("number", "text"), [(9999.4, "9,999"), (9999.6, "10,000"), (123.456, "123.5")])
def test_a_number_is_not_written_as_a_power_of_ten(number: float, text: str) -> None:
    assert number_text("kernels_per_sample", number) == text


def test_columns_are_those_of_the_page() -> None:
    table = the_table(*published("batch_size", range(4)))

    assert table.title == "Batch Size, qwen-7b-chat"
    assert table.columns == ("Batch Size", "Accumulation Steps")
    assert [line.row for line in table.lines if any(line.row)] == [("1", "16"), ("2", "8"), ("4", "4"), ("8", "2")]


def test_the_model_is_a_column_where_it_differs() -> None:
    table = the_table(*published("quantization", range(12)))

    assert table.title == "Quantization"
    assert table.columns == ("Model", "Quantization", "GPUs")
    assert table.lines[0].row == ("qwen-7b-chat", "bf16", "1")


def test_a_switch_is_yes_or_no() -> None:
    table = the_table(*published("flash_attention", range(4)))

    assert [line.row for line in table.lines if any(line.row)][:2] == [("flash", "yes"), ("flash", "no")]


@pytest.mark.parametrize("name", TABLES)
def test_the_columns_are_the_same_whichever_rows_were_run(name: str) -> None:
    whole = the_table(*published(name, range(len(TABLES[name].rows))))
    alone = the_table(*published(name, [0]))

    assert (alone.title, alone.columns) == (whole.title, whole.columns)
    assert alone.lines[0].row == whole.lines[0].row


def test_an_input_that_all_shown_rows_share_is_shown() -> None:
    table = the_table(*published("lora_rank", [1, 3]))

    assert table.columns == ("LoRA Rank", "LoRA Target Modules")
    assert [line.row for line in table.lines if any(line.row)] == [("8", "default"), ("8", "all")]


def test_a_row_that_is_not_of_the_page_has_its_inputs_and_its_name() -> None:
    trainer = Case(model="qwen-7b-chat", batch_size=4, accumulation_steps=4, loop="trainer")
    table = the_table(result("batch_size", "qwen-4-trainer", case=trainer), *published("batch_size", [0, 2]))

    assert table.title == "Batch Size, qwen-7b-chat"
    assert table.columns == ("Batch Size", "Accumulation Steps", "Row")
    assert [line.row for line in table.lines if any(line.row)] == [
        ("1", "16", ""),
        ("4", "4", ""),
        ("4", "4", "qwen-4-trainer"),
    ]


def test_a_row_of_another_model_brings_back_the_column_of_models() -> None:
    other = Case(model="yi-6b-chat", batch_size=4)
    table = the_table(*published("batch_size", [2]), result("batch_size", "yi-4", case=other))

    assert [line.row for line in table.lines if any(line.row)] == [
        ("qwen-7b-chat", "4", "4", ""),
        ("yi-6b-chat", "4", "16", "yi-4"),
    ]


def test_a_step_of_the_users_own_has_no_inputs_but_its_name() -> None:
    table = the_table(*published("batch_size", [0]), result("batch_size", "mine"))

    assert [line.row for line in table.lines if any(line.row)][-1] == ("mine", "", "", "mine")


def test_a_table_of_the_users_own_rows_names_them_although_it_is_called_like_a_published_one() -> None:
    table = the_table(result("batch_size", "mine"))

    assert (table.title, table.columns, table.lines[0].row) == ("Batch Size", ("Row",), ("mine",))


def test_published_tables_come_first_and_in_the_order_of_the_page() -> None:
    results = [result("own"), *published("lora_rank", [0]), *published("quantization", [0]), result("another")]

    assert [table.name for table in report_tables(results)] == ["quantization", "lora_rank", "own", "another"]


def test_published_rows_stand_in_the_order_of_the_page() -> None:
    """With pytest-xdist they are run in any order."""
    table = the_table(*published("lora_rank", [3, 0, 2, 1]))

    assert [line.row for line in table.lines if any(line.row)] == [
        ("2", "default"),
        ("8", "default"),
        ("64", "default"),
        ("8", "all"),
    ]


def test_rows_of_the_users_own_stand_in_the_order_in_which_they_were_run() -> None:
    table = the_table(result(row="b"), result(row="a"))

    assert [line.row for line in table.lines if any(line.row)] == [("b",), ("a",)]


def test_every_published_row_has_its_lines() -> None:
    for name, known in TABLES.items():
        table = the_table(*published(name, range(len(known.rows))))

        assert sum(any(line.row) for line in table.lines) == len(known.rows)
        assert all(len(line.row) == len(table.columns) for line in table.lines)


def test_nothing_is_no_table() -> None:
    assert report_tables([]) == []


def test_a_verdict_of_a_later_version_can_be_shown() -> None:
    row = result()
    novel = msgspec.structs.replace(row.verdict.metrics[0], metric="novelty_per_sample", status="regressed")
    shown = the_table(
        msgspec.structs.replace(row, verdict=RowVerdict(status="regressed", metrics=(novel,), reason="r"))
    )

    assert cells(shown.lines[1])[1:3] == ("novelty_per_sample", "2")


@pytest.mark.parametrize("metric", [metric for metric in METRICS.values() if metric.unit in ("s", "B")])
def test_a_metric_that_is_shown_in_another_unit_says_so(metric: Metric) -> None:
    assert {"s": "ms", "B": "GiB"}[metric.unit] in metric.title
