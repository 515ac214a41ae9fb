"""A comparison as text for a terminal, as Markdown for the summary of a CI job or a comment, and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import msgspec
from rich.table import Table
from rich.text import Text

from pytest_llmbench.judge.plan import DOUBTED
from pytest_llmbench.judge.sentence import headline, next_movers
from pytest_llmbench.judge.suite import global_shift
from pytest_llmbench.judge.values import number_texts
from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.reports.markdown import markdown_table
from pytest_llmbench.reports.table import ORDER, change_text, verdict_text
from pytest_llmbench.reports.terminal import Page, empty_table, styled
from pytest_llmbench.schema.environment import PackageChange
from pytest_llmbench.schema.metrics import METRICS, Metric, title
from pytest_llmbench.schema.units import counted, percent
from pytest_llmbench.tables import ALL_TABLES, by_table
from pytest_llmbench.trials.comparison import Compared, Comparison

__all__ = ["FORMAT", "markdown", "render", "summary", "to_json"]

FORMAT = 1
"""Of the JSON."""

_NUMBERS = ("A", "B", "change", "95 % interval")
_HEADERS = ("row", "metric", *_NUMBERS, "verdict")

_WORTH_SHOWING = 0.001
"""A change from which on also an unchanged metric is shown."""


class _Table(NamedTuple):
    """The rows of one table: texts by `_HEADERS`, empty where there is nothing to say, as the name below a row's first."""

    title: str
    lines: list[tuple[str, ...]]


def render(comparison: Comparison, *, width: int, color: bool, every_metric: bool = False) -> str:
    """Packages, tables, what changed in words, and the summary, at most *width* columns wide."""
    page = Page(width=width, color=color)
    console = page.console
    for line in _heading(comparison):
        console.print(line)
    for table in _tables(comparison.rows, every_metric):
        console.print("", Text(table.title, style="bold"), _rendered(table), sep="\n")
    if told := _stories(comparison.rows):
        console.print()
    for name, text in told:
        console.print(Text.assemble((f"{name}: ", "bold"), text))
    console.print()
    for sentence in (*comparison.left_out, *summary(comparison.rows)):
        console.print(f"llmbench: {sentence}")
    return page.text()


def markdown(comparison: Comparison, *, every_metric: bool = False) -> str:
    """The verdicts first, then packages and tables."""
    return "\n".join(_markdown_lines(comparison, every_metric))


def to_json(comparison: Comparison) -> str:
    """
    Sides, packages, summary and every verdict, indented.

    `status` of a row is as in `judge.verdict.Status`, or `unavailable`; changes and intervals are
    relative: 0.02 is 2 %.
    """
    document = {
        "format": FORMAT,
        "a": comparison.a,
        "b": comparison.b,
        "measured_on": comparison.measured_on,
        "package_changes": comparison.changes,
        "packages_unchanged": comparison.num_unchanged,
        "summary": summary(comparison.rows),
        "left_out": comparison.left_out,
        "rows": [
            {
                "table": row.table,
                "row": row.row,
                "status": row.told,
                "outcomes": {"a": row.a, "b": row.b},
                "pairs": row.pairs,
                "reason": row.verdict.reason,
                "explanation": row.verdict.explanation,
                "metrics": row.verdict.metrics,
            }
            for row in comparison.rows
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def summary(rows: Collection[Compared]) -> list[str]:
    """What the rows come to: how many of which verdict, how far they moved together."""
    counts = Counter(row.told for row in rows)
    told = ", ".join(f"{counts[word]} {word}" for word in (*ORDER, "unavailable") if counts[word])
    sentences = [told or "no case was measured"]
    if moves := list(_moves(rows)):
        sentences.append(f"geometric mean over the rows: {', '.join(moves)}")
    for metric in _summed_up():
        shift = global_shift((row.verdict for row in rows), metric.name)
        if shift is not None and shift.matters:
            sentences.append(
                f"{shift.rows} rows moved together: {metric.words} {percent(shift.change)} "
                f"({percent(shift.interval[0])} to {percent(shift.interval[1])})"
            )
    return sentences


def _tables(rows: Iterable[Compared], every_metric: bool) -> list[_Table]:
    """By table, in the order of the page, then the user's own; without *every_metric*, those that say something."""
    return [
        _Table(
            ALL_TABLES[name].title if name in ALL_TABLES else name,
            [line for row in found for line in _lines(row, every_metric)],
        )
        for name, found in by_table(rows, lambda row: row.table).items()
    ]


def _lines(row: Compared, every_metric: bool) -> Iterator[tuple[str, ...]]:
    """The row's verdict first, then the metrics worth showing."""
    outcomes = row.a if row.a == row.b else f"{row.a} -> {row.b}"
    judged = sum(metric.gates for metric in row.verdict.metrics)
    pairs = counted(row.pairs, "pair") if row.pairs else ""
    told = ", ".join(filter(None, [pairs, counted(judged, "metric") if judged else outcomes]))
    yield (row.row, told, *[""] * len(_NUMBERS), row.told)
    always = [metric.name for metric in METRICS.values() if metric.heads_row or metric.sums_up]
    for metric in row.verdict.metrics:
        moved = metric.change is not None and abs(metric.change) >= _WORTH_SHOWING
        notable = metric.metric in always or (metric.gates and (moved or metric.status != "unchanged"))
        if every_metric or notable:
            yield _line(metric)


def _line(metric: MetricVerdict) -> tuple[str, ...]:
    interval = "" if metric.interval is None else " to ".join(map(percent, metric.interval))
    return ("", title(metric.metric), *number_texts(metric), change_text(metric), interval, verdict_text(metric))


def _moves(rows: Iterable[Compared]) -> Iterator[str]:
    judged: dict[str, list[MetricVerdict]] = {}
    for row in rows:
        for verdict in row.verdict.metrics:
            judged.setdefault(verdict.metric, []).append(verdict)
    for metric in _summed_up():
        changes = [one.change for one in judged.get(metric.name, ()) if one.change is not None and one.change > -1]
        if changes:
            yield f"{metric.words} {percent(math.expm1(math.fsum(map(math.log1p, changes)) / len(changes)))}"


def _summed_up() -> list[Metric]:
    return [metric for metric in METRICS.values() if metric.sums_up]


def _stories(rows: Iterable[Compared]) -> list[tuple[str, str]]:
    """
    What there is to tell of rows, and of which: where a difference sits, or why there is no verdict.

    Rows of which the same is to be told stand together.
    """
    told: dict[str, list[str]] = {}
    for row in rows:
        verdict = row.verdict
        if verdict.status != "unchanged" or DOUBTED in verdict.reason:
            first = headline(verdict)
            where = "; ".join([first, *(line.strip() for line in next_movers(verdict))]) if first else ""
            told.setdefault(". ".join(filter(None, [where, verdict.explanation, verdict.reason])), []).append(row.name)
    return [(", ".join(names), text) for text, names in told.items()]


def _one_sided(changes: Iterable[PackageChange]) -> list[str]:
    """Packages that only one side has, a line for each side that has some."""
    changes = list(changes)
    sides = {
        "A": [f"{one.name} {one.before}" for one in changes if one.after is None],
        "B": [f"{one.name} {one.after}" for one in changes if one.before is None],
    }
    return [f"only in {side}: {', '.join(names)}" for side, names in sides.items() if names]


def _heading(comparison: Comparison) -> list[str]:
    """The sides, and which packages differ."""
    lines = [f"A  {comparison.a}", f"B  {comparison.b}"]
    if comparison.measured_on:
        lines.append(f"measured on {comparison.measured_on}")
    same = f"{comparison.num_unchanged} packages {comparison.same}"
    if not comparison.changes:
        return [*lines, f"packages: {same}, none differs"]
    lines.append("packages that differ:")
    lines += [f"  {change}" for change in comparison.changes if change.before and change.after]
    lines += [f"  {only}" for only in _one_sided(comparison.changes)]
    return [*lines, f"  ({same})"]


def _rendered(table: _Table) -> Table:
    """The metrics of a row stand below its name."""
    rendered = empty_table(("row",), _NUMBERS)
    for row, metric, *numbers, verdict in table.lines:
        # What a row was measured by has room where its metrics have their intervals.
        cells = (row, "", "", "", metric) if row else (f"  {metric}", *numbers)
        rendered.add_row(*map(Text, cells), styled(verdict))
    return rendered


def _markdown_lines(comparison: Comparison, every_metric: bool) -> Iterator[str]:
    yield f"**A** `{comparison.a}` against **B** `{comparison.b}`"
    yield ""
    if comparison.measured_on:
        yield f"Measured on {comparison.measured_on}."
        yield ""
    for sentence in (*summary(comparison.rows), *comparison.left_out):
        yield f"- {sentence}"
    yield ""
    if comparison.changes:
        yield f"Packages that differ ({comparison.num_unchanged} {comparison.same}):"
        yield ""
        changed = [one for one in comparison.changes if one.before and one.after]
        yield _table(("package", "A", "B"), [(one.name, one.before or "", one.after or "") for one in changed])
        for only in _one_sided(comparison.changes):
            yield f"- {only}"
        yield ""
    else:
        yield f"All {comparison.num_unchanged} packages {comparison.same}."
        yield ""
    for table in _tables(comparison.rows, every_metric):
        yield f"### {table.title}"
        yield ""
        yield _table(_HEADERS, table.lines)
    for name, text in _stories(comparison.rows):
        yield f"- `{name}`: {_escaped(text)}"


def _table(headers: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return markdown_table(headers, (map(_escaped, row) for row in rows), numbers=_NUMBERS) + "\n"


def _escaped(text: str) -> str:
    """A reason may hold several lines and anything else."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
