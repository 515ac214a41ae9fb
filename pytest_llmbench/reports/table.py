"""
The one table model that every report renders: rows of a published or user's table with their verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from pytest_llmbench.judge.values import number_text, number_texts, typical_value
from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.metrics import headlines, title
from pytest_llmbench.schema.units import counted, percent, plain
from pytest_llmbench.store.results import Result
from pytest_llmbench.tables import ALL_TABLES, by_table

__all__ = [
    "ORDER",
    "SYMBOLS",
    "Inputs",
    "Line",
    "ReportTable",
    "change_text",
    "inputs_of",
    "limit_text",
    "report_tables",
    "verdict_text",
]

SYMBOLS = {
    "regressed": "\N{MULTIPLICATION X}",
    "not comparable": "\N{NOT EQUAL TO}",
    "unmeasured": "!",
    "undecided": "?",
    "no baseline": "\N{WHITE CIRCLE}",
    "improved": "\N{BLACK UP-POINTING TRIANGLE}",
    "recorded": "\N{BLACK CIRCLE}",
    "unchanged": "\N{CHECK MARK}",
    "skipped": "\N{EN DASH}",
    "not run": "\N{MIDDLE DOT}",
}
"""
By `Result.told`, and for rows of a published table that have no result: no report tells them apart by colour alone.
"""

ORDER = tuple(SYMBOLS)
"""From what a reader has to act upon to what there is nothing to do about."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one row, as text; empty where there is nothing to say."""

    row: tuple[str, ...]
    """The row's inputs, one per column of the table; empty texts below the row's first line."""
    metric: str
    baseline: str = ""
    now: str = ""
    change: str = ""
    limit: str = ""
    verdict: str
    """Of the row, as `Result.told`, or of the metric: `advisory` for one that is not judged."""


class ReportTable(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a report shows of one table."""

    name: str
    title: str
    columns: tuple[str, ...]
    """Headers of `Line.row`."""
    lines: tuple[Line, ...]


def report_tables(results: Iterable[Result]) -> list[ReportTable]:
    """
    Results by table: the published tables and their rows in the page's order, then the user's own in the order
    of the results.
    """
    return [_table(name, found) for name, found in by_table(results, lambda result: result.table).items()]


class Inputs(NamedTuple):
    """The columns that tell the rows of a table apart, and what stands in them."""

    title: str
    columns: tuple[str, ...]
    order: tuple[str, ...]
    """Ids of the table's own rows, as on the page."""
    fields: tuple[str, ...]
    """Of `Case`, one per column; without the last where rows are named."""

    def of(self, row: str, case: Case) -> tuple[str, ...]:
        """The cells of a row; one that is not of the table has its own inputs, and its name."""
        # A step of the user's own takes nothing of its case but the name.
        cells = tuple(
            "" if case.step is not None and field != "model" else plain(getattr(case, field)) for field in self.fields
        )
        named = len(self.columns) > len(self.fields)
        return (*cells, "" if self.fields and row in self.order else row) if named else cells

    def rank(self, row: str) -> int:
        """A row's place on the page; other rows come after."""
        return self.order.index(row) if row in self.order else len(self.order)


def inputs_of(name: str, rows: Sequence[tuple[str, Case]], *, model_in_title: bool = False) -> Inputs:
    """
    The columns of a published table as it defines them, whichever of its rows there are; of others, the row's name.

    Args:
        rows: ids and cases of the rows to show.
        model_in_title: leaves out the model where all rows of the table have the same.
    """
    known = ALL_TABLES.get(name)
    if known is None or not any(row.id == id_ for row in known.rows for id_, _ in rows):
        return Inputs(known.title if known else name, ("Row",), (), ())
    order = tuple(row.id for row in known.rows)
    models = {case.model for case in (*(row.case for row in known.rows), *(case for _, case in rows))}
    alone = models.pop() if model_in_title and len(models) == 1 else None
    columns = [column for column in known.columns if alone is None or column[1] != "model"]
    headers = [header for header, _ in columns]
    if any(id_ not in order for id_, _ in rows):
        headers.append("Row")
    title = known.title if alone is None else f"{known.title}, {alone}"
    return Inputs(title, tuple(headers), order, tuple(field for _, field in columns))


def _table(name: str, results: list[Result]) -> ReportTable:
    inputs = inputs_of(name, [(result.row, result.measurement.case) for result in results], model_in_title=True)
    results = sorted(results, key=lambda result: inputs.rank(result.row))
    lines = [line for result in results for line in _lines(result, inputs.of(result.row, result.measurement.case))]
    return ReportTable(name=name, title=inputs.title, columns=inputs.columns, lines=tuple(lines))


def _lines(result: Result, row: tuple[str, ...]) -> Iterator[Line]:
    """The row's verdict first, then the metrics worth showing."""
    judged = [metric for metric in result.verdict.metrics if metric.gates]
    outcome = result.measurement.outcome
    told = counted(len(judged), "metric") if outcome == "ok" else outcome
    below = ("",) * len(row)
    if outcome == "ok" and not judged:
        yield from _unjudged(result, row)
        return
    yield Line(row=row, metric=told, verdict=result.told)
    for metric in result.verdict.metrics:
        if metric.metric in headlines() or (metric.gates and metric.status != "unchanged"):
            yield _line(below, metric)


def _unjudged(result: Result, row: tuple[str, ...]) -> Iterator[Line]:
    """A row that was held against nothing: what it measured."""
    verdict = result.told
    typical = {name: value for name in headlines() if (value := typical_value(result.measurement, name)) is not None}
    for name in typical or ("",):
        now = number_text(name, typical.get(name))
        yield Line(row=row, metric=title(name), now=now, verdict=verdict)
        row, verdict = ("",) * len(row), ""


def _line(row: tuple[str, ...], metric: MetricVerdict) -> Line:
    baseline, now = number_texts(metric)
    return Line(
        row=row,
        metric=title(metric.metric),
        baseline=baseline,
        now=now,
        change=change_text(metric),
        limit=limit_text(metric.limit) if metric.gates and metric.limit is not None else "",
        verdict=verdict_text(metric),
    )


def verdict_text(metric: MetricVerdict) -> str:
    """A metric's verdict, or that it is shown without being judged."""
    return metric.status if metric.gates else "advisory"


def change_text(metric: MetricVerdict) -> str:
    """How far a metric moved, in percent; empty where that is not known."""
    return "" if metric.change is None else percent(metric.change)


def limit_text(limit: float) -> str:
    """How far a metric may move to either side, or that it may not."""
    return "exact" if limit == 0 else percent(limit).replace("+", "±")
