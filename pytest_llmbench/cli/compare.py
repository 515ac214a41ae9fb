"""`llmbench compare`: what was measured already held against each other, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pytest_llmbench.cli import parameters as given
from pytest_llmbench.cli.console import warn
from pytest_llmbench.judge.tolerance import parse_tolerances
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.store.journal import Journal
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.trials.comparison import Comparison, compare_files
from pytest_llmbench.trials.pairs import comparison_of, judge_of

__all__ = ["compare"]


def compare(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A.jsonl", help="Results before the change, of a run with --llmbench; or alone, of llmbench ab."
        ),
    ],
    b: Annotated[Path | None, typer.Argument(metavar="[B.jsonl]", help="Results after it.")] = None,
    *,
    tolerance: given.TolerancesOption = None,
    markdown: given.MarkdownOption = None,
    json: given.JsonOption = None,
    fail_on: given.FailOnOption = None,
    verbose: given.VerboseOption = False,
) -> None:
    """
    Hold the rows of one result file against those of another, as measured; nothing is measured here.

    Rows are matched by table and name. A row that only one file has is named, and fails
    at --fail-on unmeasured. Of the file of an `llmbench ab`, its table so far is shown again.
    """
    with given.refusals():
        tolerances = parse_tolerances(tolerance or ())
        comparison = compare_files(a, b, tolerances, warn) if b is not None else _of_pairs(a, tolerances)
    reporting = given.Reporting(markdown, json, tuple(fail_on or ()), verbose)
    reporting.show(comparison)
    reporting.end(comparison)


def _of_pairs(file: Path, tolerances: Mapping[str, Tolerance]) -> Comparison:
    """Comparison from the pairs of `llmbench ab`; tolerances given now beat those given then."""
    journal = Journal.read(file)
    if journal.asked.command != "ab":
        raise ResultError(f"{file} is of llmbench {journal.asked.command}, which its own --resume shows")
    asked = msgspec.structs.replace(journal.asked, tolerances={**journal.asked.tolerances, **tolerances})
    return comparison_of(journal, judge_of(asked))
