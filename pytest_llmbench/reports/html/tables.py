"""
The tables of the report: bars of speed and memory for every row, of those that have no result too.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from pytest_llmbench.judge.values import number_text, typical_value
from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.reports.html.held import Held, total
from pytest_llmbench.reports.html.row import Detail, detail
from pytest_llmbench.reports.table import SYMBOLS, Inputs, change_text, inputs_of
from pytest_llmbench.schema.metrics import Value, headlines, title
from pytest_llmbench.schema.units import apart
from pytest_llmbench.store.published import PRINTED, PublishedRow, PublishedTable
from pytest_llmbench.tables import ALL_TABLES, Row, by_table

__all__ = ["Bar", "Cell", "RowView", "TableView", "anchor", "table_views"]


class Bar(msgspec.Struct, frozen=True):
    """One of the bars of a cell."""

    kind: str
    """`published`, `baseline` or `now`."""
    text: str
    percent: float
    """Of the longest bar of the column; 0 where there is no number."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A headline metric of one row."""

    bars: tuple[Bar, ...] = ()
    change: str = ""
    status: str = ""
    """Of the metric; empty where it was not judged."""
    sort: float | None = None
    """By what the column is sorted: the value now, else the baseline's, else the published."""
    sort_change: float | None = None


class RowView(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a table; `detail` is None for one that was not run."""

    anchor: str
    id: str
    inputs: tuple[str, ...]
    status: str
    symbol: str
    failed: bool
    outcome: str
    cells: tuple[Cell, ...]
    """One for each of `TableView.metrics`."""
    detail: Detail | None
    search: str


class TableView(msgspec.Struct, frozen=True, kw_only=True):
    """One table, its rows in the order of the published page."""

    name: str
    title: str
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    """Labels of the metrics that head a row."""
    rows: tuple[RowView, ...]
    speeds_published: bool
    """Whether the published numbers stand beside: they mean nothing for miniatures."""


def anchor(table: str, row: str) -> str:
    """The row's place on the page: its name where that is fit for an address, else what can be kept of it and a hash."""
    name = f"{table}/{row}"
    kept = re.sub(r"[^A-Za-z0-9_./-]+", "-", name)
    return kept if kept == name else f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def table_views(rows: Iterable[Held], published: Mapping[str, PublishedTable]) -> tuple[TableView, ...]:
    """The published tables of which a row was run in the page's order, then the user's own."""
    grouped = by_table(rows, lambda row: row.result.table)
    return tuple(_table(name, found, published.get(name)) for name, found in grouped.items())


def _table(name: str, rows: list[Held], published: PublishedTable | None) -> TableView:
    known = ALL_TABLES.get(name)
    page = {row.id: row for row in known.rows} if known else {}
    full = all(row.result.measurement.workload.scale == "full" for row in rows)
    print_of = published.rows if published and full else {}
    inputs = inputs_of(name, [(row.result.row, row.result.measurement.case) for row in rows])
    run = {row.result.row: row for row in rows}
    names = list(dict.fromkeys([*inputs.order, *run]))
    longest = {
        metric: max((value for one in names for value in _values(metric, run.get(one), print_of.get(one))), default=0.0)
        for metric in headlines()
    }
    views = (_row(_Row(name, one, run.get(one), page.get(one), print_of.get(one)), inputs, longest) for one in names)
    return TableView(
        name=name,
        title=inputs.title,
        columns=inputs.columns,
        metrics=tuple(map(title, longest)),
        rows=tuple(views),
        speeds_published=bool(print_of),
    )


class _Row(NamedTuple):
    """One row with what there is of it."""

    table: str
    id: str
    run: Held | None
    page: Row | None
    published: PublishedRow | None


def _row(row: _Row, columns: Inputs, longest: Mapping[str, float]) -> RowView:
    result = row.run.result if row.run else None
    case = result.measurement.case if result else row.page.case if row.page else None
    inputs = columns.of(row.id, case) if case else (row.id,)
    status = result.told if result else "not run"
    outcome = result.measurement.outcome if result else ""
    failed = result is not None and result.decision == "fail"
    return RowView(
        anchor=anchor(row.table, row.id),
        id=row.id,
        inputs=inputs,
        status=status,
        symbol=SYMBOLS.get(status, ""),
        failed=failed,
        outcome=outcome,
        cells=tuple(_cell(metric, row.run, row.published, most) for metric, most in longest.items()),
        detail=detail(row.run) if row.run else None,
        search=" ".join([row.table, row.id, *inputs, status, outcome, "failed" if failed else ""]).lower(),
    )


def _cell(metric: str, row: Held | None, published: PublishedRow | None, longest: float) -> Cell:
    verdict = _verdict(metric, row)
    printed = published.value(metric) if published else None
    now = typical_value(row.result.measurement, metric) if row else None
    before = verdict.baseline if verdict else None
    texts = apart(before, now, partial(number_text, metric))
    sides: list[tuple[str, Value | None, str]] = [("published", printed, number_text(metric, printed))]
    sides += [("baseline", before, texts[0]), ("now", now, texts[1])]
    bars = [Bar(kind, text, _share(total(value), longest)) for kind, value, text in sides if value is not None]
    if published is not None and published.outcome == "oom" and metric in PRINTED:
        bars.insert(0, Bar("published", "OOM", 0.0))
    if row is not None and row.result.measurement.outcome != "ok" and metric in PRINTED:
        bars.append(Bar("now", "OOM" if row.result.measurement.outcome == "oom" else "none", 0.0))
    known = [total(value) for _, value, _ in reversed(sides) if value is not None]
    return Cell(
        bars=tuple(bars),
        change=change_text(verdict) if verdict else "",
        status=verdict.status if verdict and verdict.gates else "",
        sort=known[0] if known else None,
        sort_change=verdict.change if verdict else None,
    )


def _verdict(metric: str, row: Held | None) -> MetricVerdict | None:
    metrics = row.result.verdict.metrics if row else ()
    return next((verdict for verdict in metrics if verdict.metric == metric), None)


def _values(metric: str, row: Held | None, published: PublishedRow | None) -> Iterator[float]:
    verdict = _verdict(metric, row)
    now = typical_value(row.result.measurement, metric) if row else None
    printed = published.value(metric) if published else None
    for value in (printed, verdict.baseline if verdict else None, now):
        number = total(value)
        if number is not None:
            yield number


def _share(value: float | None, longest: float) -> float:
    if value is None or not math.isfinite(value) or longest <= 0:
        return 0.0
    return round(value / longest * 100, 2)
