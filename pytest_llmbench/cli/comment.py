"""`llmbench comment`: what a pull request's run has found, as a comment that trusts no text of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pytest_llmbench.cli.console import stop, warn, write
from pytest_llmbench.reports.comment import Known
from pytest_llmbench.reports.comment import comment as text_of
from pytest_llmbench.store.artefact import Artefact, ArtefactError, read_artefact
from pytest_llmbench.store.files import read_file

__all__ = ["comment"]

_CONCLUSION = re.compile(r"[a-z_]{1,30}")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_RUN = re.compile(r"https://[A-Za-z0-9.-]+(?::\d+)?/[A-Za-z0-9._-]+/[A-Za-z0-9._-]+/actions/runs/\d+(?:/attempts/\d+)?")
_MOST_MIB = 4


def comment(  # noqa: PLR0917 - each is an option of the command
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the comment.")],
    commit: Annotated[str, typer.Option(metavar="SHA", help="The commit that was measured, as the event has it.")],
    run: Annotated[str, typer.Option(metavar="URL", help="Address of the run, as the event has it.")],
    artefact: Annotated[
        Path | None,
        typer.Option(
            metavar="ZIP|DIR", help="What the run uploaded, with fake.jsonl, smoke.jsonl and baselines.json in it."
        ),
    ] = None,
    conclusion: Annotated[str, typer.Option(help="How the run ended, as the event has it.")] = "success",
    changed: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the files that the pull request changes, one a line.")
    ] = None,
) -> None:
    """
    Write the comment on a pull request from the artefact of its run, which its own code has made.

    Files of other names are not opened, lines that are no results are left out and named.
    """
    for option, value, shape in (
        ("--conclusion", conclusion, _CONCLUSION),
        ("--commit", commit, _COMMIT),
        ("--run", run, _RUN),
    ):
        if not shape.fullmatch(value):
            stop(f"{option} {value[:100]!r}: is not what an event of GitHub has there; take it from the event")
    known = Known(conclusion, commit, run, _names(changed) if changed is not None else ())
    found = None if artefact is None else _read(artefact)
    try:
        text = text_of(known, found)
    except Exception as error:  # noqa: BLE001 - whatever values made it, the comment says that they cannot be shown
        warn(f"{artefact}: its results cannot be shown: {type(error).__name__}")
        text = text_of(known, Artefact(refused=("its results cannot be shown",)))
    write(out, text)


def _read(path: Path) -> Artefact:
    try:
        return read_artefact(path)
    except ArtefactError as error:
        warn(str(error))
        return Artefact(refused=("the artefact is no ZIP archive that can be read",))


def _names(file: Path) -> tuple[str, ...]:
    try:
        data = read_file(file, most_mib=_MOST_MIB)
    except OSError as error:
        stop(f"{file}: cannot be read: {error.strerror}")
    return tuple(filter(None, data.decode(errors="replace").splitlines()))
