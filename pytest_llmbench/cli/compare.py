"""`llmbench compare`: the rows of two result files held against each other, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_llmbench.cli import parameters as given
from pytest_llmbench.cli.reporting import Reporting
from pytest_llmbench.comparison.offline import compare_files
from pytest_llmbench.judge.tolerance import parse_tolerances

__all__ = ["compare"]


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.jsonl", help="Results before the change, of a run with --llmbench.")],
    b: Annotated[Path, typer.Argument(metavar="B.jsonl", help="Results after it.")],
    *,
    tolerance: given.TolerancesOption = None,
    markdown: given.MarkdownOption = None,
    json: given.JsonOption = None,
    fail_on: given.FailOnOption = None,
    verbose: given.VerboseOption = False,
) -> None:
    """
    Hold the rows of one result file against those of another, as measured; nothing is measured here.

    Rows are matched by table and name. A row that only one file has is named, and counts as
    inconclusive for --fail-on.
    """
    with given.refusals():
        comparison = compare_files(a, b, parse_tolerances(tolerance or ()))
    reporting = Reporting(markdown, json, tuple(fail_on or ()), verbose)
    reporting.show(comparison)
    reporting.end(comparison)
