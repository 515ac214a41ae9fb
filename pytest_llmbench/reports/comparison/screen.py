"""A comparison as text for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from pytest_llmbench.reports.comparison.lines import HEADERS, CompareTable, compare_tables, one_sided, stories
from pytest_llmbench.reports.terminal import Page, styled
from pytest_llmbench.trials.comparison import Comparison, summary

__all__ = ["render"]

_NUMBERS = HEADERS[2:-1]


def render(comparison: Comparison, *, width: int, color: bool, every_metric: bool = False) -> str:
    """Packages, tables, what changed in words, and the summary, at most *width* columns wide."""
    page = Page(width=width, color=color)
    console = page.console
    for line in heading(comparison):
        console.print(line)
    for table in compare_tables(comparison.rows, every_metric=every_metric):
        console.print("", Text(table.title, style="bold"), _table(table), sep="\n")
    if told := stories(comparison.rows):
        console.print()
    for name, text in told:
        console.print(Text.assemble((f"{name}: ", "bold"), text))
    console.print()
    for sentence in (*comparison.left_out, *summary(comparison.rows)):
        console.print(f"llmbench: {sentence}")
    return page.text()


def heading(comparison: Comparison) -> list[str]:
    """The sides, and which packages differ."""
    lines = [f"A  {comparison.a}", f"B  {comparison.b}"]
    if comparison.measured_on:
        lines.append(f"measured on {comparison.measured_on}")
    same = f"{comparison.num_unchanged} packages {comparison.same}"
    if not comparison.changes:
        return [*lines, f"packages: {same}, none differs"]
    lines.append("packages that differ:")
    lines += [f"  {change}" for change in comparison.changes if change.before and change.after]
    lines += [f"  {only}" for only in one_sided(comparison.changes)]
    return [*lines, f"  ({same})"]


def _table(table: CompareTable) -> Table:
    """The metrics of a row stand below its name."""
    rendered = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    rendered.add_column(Text("row"), overflow="fold")
    for header in _NUMBERS:
        rendered.add_column(Text(header), justify="right", no_wrap=True)
    rendered.add_column(Text("verdict"))
    for line in table.lines:
        row, metric, *numbers, verdict = line.cells
        # What a row was measured by has room where its metrics have their intervals.
        cells = (row, "", "", "", metric) if row else (f"  {metric}", *numbers)
        rendered.add_row(*map(Text, cells), styled(verdict))
    return rendered
