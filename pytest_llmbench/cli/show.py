"""`llmbench show`: the tables of a result file, as the run that wrote it printed them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_llmbench.cli.console import columns, has_color, read
from pytest_llmbench.reports.summary import totals
from pytest_llmbench.reports.table import report_tables
from pytest_llmbench.reports.terminal import render
from pytest_llmbench.store.results import latest

__all__ = ["show"]


def show(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.jsonl", help="A file that a run with --llmbench wrote.")],
    fail: Annotated[bool, typer.Option("--fail", help="Exit with status 1 if any row failed.")] = False,
) -> None:
    """Print the tables of a result file; of results for the same row the last counts."""
    found = latest(*read([results]))
    typer.echo(render(report_tables(found), width=columns(80), color=has_color()))
    failed = [result for result in found if result.decision == "fail"]
    for result in failed:
        typer.echo(f"failed: {result.name}: {result.why}")
    typer.echo(f"llmbench: {totals(found)}")
    if fail and failed:
        raise typer.Exit(1)
