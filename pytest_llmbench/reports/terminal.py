"""
The report tables as text for pytest's terminal reporter.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pytest_llmbench.reports.table import Line, ReportTable
from pytest_llmbench.schema.text import no_commands

__all__ = ["Page", "empty_table", "render", "styled"]

_STYLES = {
    "regressed": "bold red",
    "not comparable": "yellow",
    "unmeasured": "red",
    "unavailable": "red",
    "undecided": "yellow",
    "improved": "bold green",
    "unchanged": "green",
}
_VERDICT_WIDTH = len("unmeasured")
_ENDLESS = 10_000
_NUMBERS = ("baseline", "now", "change", "limit")
_FIRST_MARK = 0xF0000
"""Of the characters that Unicode leaves to private use."""


class Page:
    """What is printed on `console`, as text of at most *width* columns, with ANSI colours or without."""

    def __init__(self, *, width: int, color: bool) -> None:
        self._stream = io.StringIO()
        self.console = Console(
            file=self._stream,
            width=width,
            force_terminal=color,
            color_system="standard" if color else None,
            no_color=not color,
            highlight=False,
            emoji=False,
            markup=False,
            legacy_windows=False,
        )

    def text(self) -> str:
        """Without blanks at the ends of lines."""
        return no_commands("\n".join(line.rstrip() for line in self._stream.getvalue().rstrip("\n").split("\n")))


def render(tables: Iterable[ReportTable], *, width: int, color: bool) -> str:
    """
    All tables as text that is at most *width* columns wide, with ANSI colours or without.

    Where a table's columns do not fit side by side, each row's inputs stand above its metrics.
    """
    page = Page(width=width, color=color)
    console = page.console
    labels = _Labels(width)
    for table in tables:
        wide = _wide(table)
        fits = console.measure(wide, options=console.options.update_width(_ENDLESS)).maximum <= width
        console.print(Text(table.title, style="bold"), wide if fits else _narrow(table, labels), "", sep="\n")
    return no_commands(page.text().translate(labels.by_mark))


def styled(verdict: str) -> Text:
    """A verdict in its colour; in grey where nothing was judged."""
    return Text(verdict, style=_STYLES.get(verdict, "dim"))


def _wide(table: ReportTable) -> Table:
    """The inputs of a row and the metric in columns of their own, as on the published page."""
    rendered = empty_table((*(header.replace(" ", "\n") for header in table.columns), "metric"), _NUMBERS)
    for line in table.lines:
        _add(rendered, (*line.row, line.metric), line)
    return rendered


class _Labels:
    """
    Texts that take a line of their own across the columns of a table.

    A table has no such cells, so a character stands for each until the table is text.
    """

    def __init__(self, width: int) -> None:
        self.by_mark: dict[int, str] = {}
        self._width = width

    def mark(self, text: str) -> str:
        mark = _FIRST_MARK + len(self.by_mark)
        self.by_mark[mark] = "\n".join(text[at : at + self._width] for at in range(0, len(text), self._width))
        return chr(mark)


def _narrow(table: ReportTable, labels: _Labels) -> Table:
    """The inputs of a row on a line, its metrics below them."""
    rendered = empty_table((", ".join(table.columns),), _NUMBERS)
    for line in table.lines:
        if any(line.row):
            rendered.add_row(Text(labels.mark(", ".join(filter(None, line.row)))))
        _add(rendered, (f"  {line.metric}",), line)
    return rendered


def empty_table(left: Iterable[str], numbers: Iterable[str]) -> Table:
    """A table without rows: columns of text, columns of *numbers*, and the verdict."""
    rendered = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for header in left:
        rendered.add_column(Text(header), overflow="fold")
    for header in numbers:
        rendered.add_column(Text(header), justify="right", no_wrap=True)
    rendered.add_column(Text("verdict"), min_width=_VERDICT_WIDTH)
    return rendered


def _add(rendered: Table, left: tuple[str, ...], line: Line) -> None:
    cells = (*left, line.baseline, line.now, line.change, line.limit)
    rendered.add_row(*map(Text, cells), styled(line.verdict))
