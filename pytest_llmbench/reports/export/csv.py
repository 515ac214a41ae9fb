"""Comma-separated values: a line per row, process, metric and GPU, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.reports.export.values import numbers
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.store.results import Result

__all__ = ["COLUMNS", "export"]

COLUMNS = (
    "measured_at",
    "device",
    "table",
    "row",
    "verdict",
    "process",
    "outcome",
    "metric",
    "gpu",
    "value",
    "unit",
    "metric_verdict",
    "gates",
    "change",
    "limit",
    "commit",
)


def export(results: Sequence[Result]) -> str:
    """
    One header line; a process that measured nothing has a line without a metric. `change` and `limit` are fractions.

    `gates` is `no` for an advisory metric, whose verdict does not count for the row.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        writer.writerows(_lines(result))
    return stream.getvalue()


def _lines(result: Result) -> Iterator[tuple[object, ...]]:
    measurement = result.measurement
    judged = {verdict.metric: verdict for verdict in result.verdict.metrics}
    device = measurement.environment.device if measurement.environment else ""
    repository = measurement.environment.repository if measurement.environment else None
    commit = repository.commit if repository else ""
    # A name that begins like a formula would be one in a spreadsheet.
    row = (measurement.measured_at, device, *map(_text, (result.table, result.row)), result.told)
    for number, process in enumerate(measurement.processes, start=1):
        if not process.metrics:
            yield (*row, number, process.outcome, *[""] * (len(COLUMNS) - len(row) - 3), commit)
        for name in process.metrics:
            verdict = judged.get(name)
            moved = _judged(verdict) if verdict else ("", "", "", "")
            values = numbers(process, name)
            for gpu, value in enumerate(values):
                unit = METRICS[name].unit if name in METRICS else ""
                yield (*row, number, process.outcome, name, gpu if len(values) > 1 else "", value, unit, *moved, commit)


def _judged(verdict: MetricVerdict) -> tuple[object, ...]:
    gates = "yes" if verdict.gates else "no"
    return verdict.status, gates, _number(verdict.change), _number(verdict.limit)


def _number(value: float | None) -> object:
    return "" if value is None else value


def _text(name: str) -> str:
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
