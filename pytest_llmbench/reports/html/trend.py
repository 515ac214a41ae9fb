"""
How every row went from run to run: one point per result file, with what was new in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from pytest_llmbench.judge.values import number_text, shown_unit, typical_value
from pytest_llmbench.reports.html.charts import sparkline
from pytest_llmbench.reports.html.held import total
from pytest_llmbench.reports.html.tables import anchor
from pytest_llmbench.reports.table import SYMBOLS
from pytest_llmbench.schema.environment import package_changes
from pytest_llmbench.schema.metrics import METRICS, headlines, title
from pytest_llmbench.schema.units import percent
from pytest_llmbench.store.results import Result, latest
from pytest_llmbench.tables import ALL_TABLES

__all__ = ["ResultFile", "Trend", "TrendCell", "TrendRow", "TrendRun", "in_order", "trend"]


class ResultFile(NamedTuple):
    """One run: its file's name, and its results."""

    name: str
    results: tuple[Result, ...]

    @property
    def measured_at(self) -> str:
        return max((result.measurement.measured_at for result in self.results), default="")


class TrendRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run on the axis of the trend."""

    name: str
    when: str
    """To the minute."""
    device: str
    rows: int
    failed: int
    new: tuple[str, ...]
    """Packages that changed since the run before."""


class TrendCell(msgspec.Struct, frozen=True):
    """One metric of one row over all runs."""

    line: tuple[tuple[tuple[float, float], ...], ...]
    last: str
    change: str
    """From the first run that has it to the last."""


class TrendRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row over all runs."""

    anchor: str
    table: str
    id: str
    status: str
    symbol: str
    cells: tuple[TrendCell, ...]


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """All rows over all runs; `data` is what the interactive chart draws."""

    runs: tuple[TrendRun, ...]
    labels: tuple[str, ...]
    """Of the cells of a row."""
    rows: tuple[TrendRow, ...]
    data: dict[str, Any]


def in_order(files: Sequence[ResultFile]) -> tuple[ResultFile, ...]:
    """Files with a result, oldest first."""
    return tuple(sorted((file for file in files if file.results), key=lambda file: file.measured_at))


def trend(files: Sequence[ResultFile]) -> Trend | None:
    """
    Args:
        files: oldest first.

    Returns:
        None below two files.
    """
    if len(files) < 2:
        return None
    by_run = [{(result.table, result.row): result for result in latest(file.results)} for file in files]
    names = dict.fromkeys(name for run in by_run for name in run)
    order = list(ALL_TABLES)
    rows = sorted(names, key=lambda name: order.index(name[0]) if name[0] in order else len(order))
    drawn = (*headlines(), *(metric.name for metric in METRICS.values() if metric.has_trend))
    metrics = [metric for metric in drawn if any(_value(run.get(row), metric) for run in by_run for row in rows)]
    runs = _runs(files)
    return Trend(
        runs=runs,
        labels=tuple(title(metric) for metric in headlines()),
        rows=tuple(_row(row, by_run) for row in rows),
        data={
            "runs": [msgspec.to_builtins(run) for run in runs],
            "metrics": [
                {"label": title(name), "better": METRICS[name].better, "scale": shown_unit(name)} for name in metrics
            ],
            "rows": [
                {
                    "table": table,
                    "id": id_,
                    "values": [[_rounded(_value(run.get((table, id_)), name)) for run in by_run] for name in metrics],
                    "status": [run[table, id_].told if (table, id_) in run else None for run in by_run],
                }
                for table, id_ in rows
            ],
        },
    )


def _runs(files: Sequence[ResultFile]) -> tuple[TrendRun, ...]:
    environments = [
        next((found for result in reversed(file.results) if (found := result.measurement.environment)), None)
        for file in files
    ]
    return tuple(
        TrendRun(
            name=file.name,
            when=file.measured_at[:16].replace("T", " "),
            device=environment.device if environment else "unknown",
            rows=len(latest(file.results)),
            failed=sum(result.decision == "fail" for result in latest(file.results)),
            new=tuple(map(str, package_changes(before, environment))) if before and environment else (),
        )
        for file, environment, before in zip(files, environments, [None, *environments], strict=False)
    )


def _row(name: tuple[str, str], by_run: Sequence[dict[tuple[str, str], Result]]) -> TrendRow:
    last = next(run[name] for run in reversed(by_run) if name in run)
    return TrendRow(
        anchor=anchor(*name),
        table=name[0],
        id=name[1],
        status=last.told,
        symbol=SYMBOLS[last.told],
        cells=tuple(_cell(metric, [run.get(name) for run in by_run]) for metric in headlines()),
    )


def _cell(metric: str, results: Sequence[Result | None]) -> TrendCell:
    values = [_value(result, metric) for result in results]
    known = [value for value in values if value is not None]
    last = next((one.measurement for one in reversed(results) if one and _value(one, metric) is not None), None)
    change = percent(known[-1] / known[0] - 1) if len(known) > 1 and known[0] else ""
    return TrendCell(sparkline(values), number_text(metric, typical_value(last, metric)) if last else "", change)


def _value(result: Result | None, metric: str) -> float | None:
    return None if result is None else total(typical_value(result.measurement, metric))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
