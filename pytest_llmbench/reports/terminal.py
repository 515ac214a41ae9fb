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

from pytest_llmbench.judge.verdict import Status
from pytest_llmbench.reports.table import ReportTable

__all__ = ["render"]

_STYLES: dict[Status, str] = {
    "regressed": "bold red",
    "not comparable": "yellow",
    "inconclusive": "yellow",
    "improved": "bold green",
    "unchanged": "green",
    "no baseline": "cyan",
}


def render(tables: Iterable[ReportTable], *, width: int, color: bool) -> str:
    """
    All tables as text that is at most *width* columns wide, with ANSI colours or without.
    """
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    )
    for table in tables:
        console.print(_rendered(table))
    return stream.getvalue().rstrip("\n")


def _rendered(table: ReportTable) -> Table:
    rendered = Table(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
    )
    for header in table.columns:
        rendered.add_column(Text(header), overflow="fold", min_width=min(max(map(len, header.split())), 13))
    rendered.add_column(Text("metric"), overflow="fold", min_width=13)
    for header in ("baseline", "now", "change", "limit"):
        rendered.add_column(Text(header), justify="right", no_wrap=True)
    rendered.add_column(Text("verdict"), overflow="fold", min_width=12)
    for line in table.lines:
        verdict = Text(line.verdict, style=_STYLES[line.status])
        cells = (*line.row, line.metric, line.baseline, line.now, line.change, line.limit)
        rendered.add_row(*(Text(cell) for cell in cells), verdict)
    return rendered
