"""The one table model of a comparison, which the terminal and Markdown render."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from pytest_llmbench.judge.figures import number_texts
from pytest_llmbench.judge.plan import DOUBTED
from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.reports.table import verdict_text
from pytest_llmbench.schema.environment import PackageChange
from pytest_llmbench.schema.metrics import METRICS, title
from pytest_llmbench.schema.units import percent
from pytest_llmbench.tables import ALL_TABLES, in_page_order
from pytest_llmbench.trials.comparison import Compared

__all__ = ["HEADERS", "CompareLine", "CompareTable", "compare_tables", "one_sided", "stories"]

HEADERS = ("row", "metric", "A", "B", "change", "95 % interval", "verdict")

WORTH_SHOWING = 0.001
"""A change from which on also an unchanged metric is shown."""


class CompareLine(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one row, as text; empty where there is nothing to say."""

    row: str = ""
    """Empty below the row's first line."""
    metric: str
    a: str = ""
    b: str = ""
    change: str = ""
    interval: str = ""
    verdict: str

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of `HEADERS`."""
        return self.row, self.metric, self.a, self.b, self.change, self.interval, self.verdict


class CompareTable(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one table."""

    title: str
    lines: tuple[CompareLine, ...]


def compare_tables(rows: Iterable[Compared], *, every_metric: bool = False) -> list[CompareTable]:
    """By table, in the order of the page, then the user's own; without *every_metric*, those that say something."""
    grouped: dict[str, list[Compared]] = {}
    for row in rows:
        grouped.setdefault(row.table, []).append(row)
    return [
        CompareTable(
            title=ALL_TABLES[name].title if name in ALL_TABLES else name,
            lines=tuple(line for row in grouped[name] for line in _lines(row, every_metric)),
        )
        for name in in_page_order(grouped)
    ]


def stories(rows: Iterable[Compared]) -> list[tuple[str, str]]:
    """
    What there is to tell of rows, and of which: where a difference sits, or why there is no verdict.

    Rows of which the same is to be told stand together.
    """
    told: dict[str, list[str]] = {}
    for row in rows:
        verdict = row.verdict
        if verdict.status != "unchanged" or DOUBTED in verdict.reason:
            told.setdefault(". ".join(filter(None, [verdict.explanation, verdict.reason])), []).append(row.name)
    return [(", ".join(names), text) for text, names in told.items()]


def one_sided(changes: Iterable[PackageChange]) -> list[str]:
    """Packages that only one side has, a line for each side that has some."""
    changes = list(changes)
    sides = {
        "A": [f"{one.name} {one.before}" for one in changes if one.after is None],
        "B": [f"{one.name} {one.after}" for one in changes if one.before is None],
    }
    return [f"only in {side}: {', '.join(names)}" for side, names in sides.items() if names]


def _lines(row: Compared, every_metric: bool) -> Iterator[CompareLine]:
    """The row's verdict first, then the metrics worth showing."""
    outcomes = row.a if row.a == row.b else f"{row.a} -> {row.b}"
    pairs = f"{row.pairs} pair{'s' if row.pairs != 1 else ''}" if row.pairs else ""
    judged = sum(metric.gates for metric in row.verdict.metrics)
    told = ", ".join(filter(None, [pairs, f"{judged} metric{'s' if judged != 1 else ''}" if judged else outcomes]))
    yield CompareLine(row=row.row, metric=told, verdict=row.told)
    always = [metric.name for metric in METRICS.values() if metric.heads_row or metric.sums_up]
    for metric in row.verdict.metrics:
        moved = metric.change is not None and abs(metric.change) >= WORTH_SHOWING
        notable = metric.metric in always or (metric.gates and (moved or metric.status != "unchanged"))
        if every_metric or notable:
            yield _line(metric)


def _line(metric: MetricVerdict) -> CompareLine:
    a, b = number_texts(metric)
    return CompareLine(
        metric=title(metric.metric),
        a=a,
        b=b,
        change="" if metric.change is None else percent(metric.change),
        interval="" if metric.interval is None else " to ".join(map(percent, metric.interval)),
        verdict=verdict_text(metric),
    )
