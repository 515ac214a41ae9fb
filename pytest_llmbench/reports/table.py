"""
The one table model that every report renders: rows of a published or user's table with their verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from pytest_llmbench.judge.values import typical_value
from pytest_llmbench.judge.verdict import MetricVerdict, Status
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.metrics import METRICS, Value, headlines, title
from pytest_llmbench.schema.units import gib, percent
from pytest_llmbench.store.results import Result
from pytest_llmbench.tables import TABLES, in_page_order

__all__ = [
    "Line",
    "ReportTable",
    "input_text",
    "limit_text",
    "number_text",
    "report_tables",
]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one row, as text; empty where there is nothing to say."""

    row: tuple[str, ...]
    """The row's varying inputs, one per column of the table; empty texts below the row's first line."""
    metric: str
    baseline: str = ""
    now: str = ""
    change: str = ""
    limit: str = ""
    verdict: str
    status: Status


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
    grouped: dict[str, list[Result]] = {}
    for result in results:
        grouped.setdefault(result.table, []).append(result)
    return [_table(name, grouped[name]) for name in in_page_order(grouped)]


def _table(name: str, results: list[Result]) -> ReportTable:
    known = TABLES.get(name)
    page = [row.id for row in known.rows] if known is not None else []
    if known is None or any(result.row not in page for result in results):
        columns: tuple[tuple[str, str], ...] = ()
    else:
        columns = known.columns
        results = sorted(results, key=lambda result: page.index(result.row))
    cases = [result.measurement.case for result in results]
    varying = [column for column in columns if len({getattr(case, column[1]) for case in cases}) > 1]
    # A model that is the same in every row stands once, in the title.
    shared = [cases[0].model] if columns and len({case.model for case in cases}) == 1 else []
    lines = [line for result in results for line in _lines(result, tuple(field for _, field in varying))]
    return ReportTable(
        name=name,
        title=", ".join([known.title if known else name, *shared]),
        columns=tuple(header for header, _ in varying) or ("Row",),
        lines=tuple(lines),
    )


def _lines(result: Result, fields: tuple[str, ...]) -> Iterator[Line]:
    """The row's verdict first, then the metrics worth showing."""
    row = tuple(input_text(result.measurement.case, field) for field in fields) or (result.row,)
    judged = [metric for metric in result.verdict.metrics if metric.gates]
    outcome = result.measurement.outcome
    told = f"{len(judged)} metric{'s' if len(judged) > 1 else ''}" if outcome == "ok" else outcome
    below = ("",) * len(row)
    if outcome == "ok" and not judged:
        yield from _unjudged(result, row)
        return
    yield Line(row=row, metric=told, verdict=result.told, status=result.verdict.status)
    for metric in result.verdict.metrics:
        if metric.metric in headlines() or (metric.gates and metric.status != "unchanged"):
            yield _line(below, metric)


def _unjudged(result: Result, row: tuple[str, ...]) -> Iterator[Line]:
    """A row that was held against nothing: what it measured."""
    verdict, status = result.told, result.verdict.status
    typical = {name: value for name in headlines() if (value := typical_value(result.measurement, name)) is not None}
    for name in typical or ("",):
        now = number_text(name, typical.get(name))
        yield Line(row=row, metric=title(name), now=now, verdict=verdict, status=status)
        row, verdict = ("",) * len(row), ""


def _line(row: tuple[str, ...], metric: MetricVerdict) -> Line:
    return Line(
        row=row,
        metric=title(metric.metric),
        baseline=number_text(metric.metric, metric.baseline),
        now=number_text(metric.metric, metric.now),
        change="" if metric.change is None else percent(metric.change),
        limit=limit_text(metric.limit) if metric.gates and metric.limit is not None else "",
        verdict=metric.status if metric.gates else "advisory",
        status=metric.status if metric.gates else "unchanged",
    )


def limit_text(limit: float) -> str:
    """How far a metric may move to either side, or that it may not."""
    return "exact" if limit == 0 else percent(limit).replace("+", "±")


def number_text(metric: str, value: Value | None) -> str:
    """GiB per GPU, milliseconds, or four significant digits."""
    if value is None:
        return ""
    parts = value if isinstance(value, tuple) else (value,)
    unit = METRICS[metric].unit if metric in METRICS else ""  # a result file may know more metrics
    if unit == "B":
        return "+".join(gib(part) for part in parts)
    if unit == "s":
        return "+".join(f"{part * 1e3:.2f}" for part in parts)
    return "+".join(f"{part:.4g}" if abs(part) < 1e4 else f"{part:.0f}" for part in parts)


def input_text(case: Case, field: str) -> str:
    """An input of a case, as a cell of its table."""
    value = getattr(case, field)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
