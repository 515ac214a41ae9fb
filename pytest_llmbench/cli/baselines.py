"""`llmbench baselines`: what is stored, beside what was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_llmbench.cli import parameters as given
from pytest_llmbench.cli.console import columns, has_color, stop, warn, write
from pytest_llmbench.host.commit import CommitError, commit_at
from pytest_llmbench.reports.changes import markdown_changes, render_changes, to_json
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.changes import changes
from pytest_llmbench.store.committed import CommittedBaselines

__all__ = ["baselines"]

baselines = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What is stored, beside what was.")


@baselines.callback()
def _group() -> None:
    """Baselines of the working tree, beside those of a commit."""


@baselines.command()
def diff(
    rev: Annotated[
        str, typer.Argument(metavar="[REV]", help="A branch, a tag, a commit; origin/main... is the merge base.")
    ] = "HEAD",
    baselines: Annotated[Path, typer.Option(help="Folder of the baselines.")] = Path("baselines"),
    markdown: given.MarkdownOption = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every difference as JSON.")] = None,
) -> None:
    """
    What differs between the baselines of REV and those of the working tree, row by row, for those who review it.

    Exits with status 2 if a file cannot be read, after all others were compared.
    """
    try:
        commit = commit_at(baselines, rev)
        store = BaselineStore(baselines)
        store.check_links()
        found = changes(CommittedBaselines(baselines, commit), store, names=(str(commit), "the working tree"))
    except (BaselineError, CommitError) as error:
        stop(str(error))
    typer.echo(render_changes(found, width=columns(), color=has_color()))
    if markdown is not None:
        write(markdown, markdown_changes(found))
    if json is not None:
        write(json, to_json(found))
    for sentence in found.unreadable:
        warn(sentence)
    if found.unreadable:
        raise typer.Exit(2)
