"""How a command reads result files: all lines that can be read, with a word on the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from pytest_llmbench.cli.terminal import stop
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.store.results import Result, read_results

__all__ = ["read", "warn"]


def read(paths: Sequence[Path]) -> tuple[tuple[Result, ...], ...]:
    """The results of each file, or the end of the command where a file cannot be read, or all of them have none."""
    try:
        found = tuple(read_results(path, warn) for path in paths)
    except ResultError as error:
        stop(str(error))
    empty = [f"{path}: there is no result in it" for path, results in zip(paths, found, strict=True) if not results]
    if len(empty) == len(paths):
        stop("; ".join(empty))
    for sentence in empty:
        warn(sentence)
    return found


def warn(sentence: str) -> None:
    """Say something on the standard error stream, and go on."""
    typer.echo(f"llmbench: {sentence}", err=True)
