"""`llmbench report`: what the stored baselines of a device say, as a document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pytest_llmbench.baselines.file import BaselineError
from pytest_llmbench.baselines.published import PublishedError, load_published
from pytest_llmbench.baselines.store import BaselineStore
from pytest_llmbench.reports.reproduction import reproduction
from pytest_llmbench.tables import TABLES

__all__ = ["report"]


def report(
    device: Annotated[str, typer.Argument(help="Folder of the device below the baselines, as nvidia-h200.")],
    like: Annotated[
        Literal["published"], typer.Option(help="published: the tables of the published page.")
    ] = "published",
    baselines: Annotated[Path, typer.Option(help="Folder of the baselines.")] = Path("baselines"),
) -> None:
    """Print the published tables with measured columns, as Markdown."""
    store = BaselineStore(baselines)
    try:
        published = load_published(baselines)
        loaded = {name: store.load(device, name) for name in TABLES}
    except (BaselineError, PublishedError) as error:
        typer.echo(f"llmbench: {error}", err=True)
        raise typer.Exit(2) from None
    measured = {name: file for name, file in loaded.items() if file is not None}
    if set(published) < set(TABLES) or not measured:
        missing = "published numbers" if set(published) < set(TABLES) else f"baselines of {device}"
        typer.echo(f"llmbench: {baselines}: no {missing} here", err=True)
        raise typer.Exit(2)
    typer.echo(reproduction(published, measured), nl=False)
