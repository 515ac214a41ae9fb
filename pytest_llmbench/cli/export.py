"""`llmbench export`: results in the format of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pytest_llmbench.cli.console import newest, read, write
from pytest_llmbench.reports.export import Format

__all__ = ["export"]


def export(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS.jsonl...", help="Files that runs with --llmbench wrote.")
    ],
    to: Annotated[Format, typer.Option("--to", help="The tool that is to read it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it, instead of printing it.")
    ] = None,
    better: Annotated[
        Literal["smaller", "bigger"],
        typer.Option(help="Of github-action-benchmark, which takes one direction a file: which metrics."),
    ] = "smaller",
) -> None:
    """Write results in the format of another tool; of results for the same row the newest counts."""
    from pytest_llmbench.reports.export import export as exported
    from pytest_llmbench.reports.export.values import ok_processes

    rows = newest(read(results))
    text = exported(rows, to, better=better)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write(output, text)
    empty = [result.name for result in rows if not ok_processes(result)]
    if empty and to not in ("csv", "junit"):
        typer.echo(f"llmbench: {to} has no place for rows that measured nothing: {', '.join(empty)}", err=True)
