"""What every command says on the terminal: errors, warnings, and how wide and colourful it may be."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import typer

from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.store.results import Result, latest, read_results

__all__ = ["columns", "has_color", "newest", "read", "stop", "warn", "write"]


def stop(sentence: str) -> NoReturn:
    """Say why on the standard error stream, and exit with status 2."""
    warn(sentence)
    raise typer.Exit(2)


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


def newest(files: Iterable[Iterable[Result]]) -> tuple[Result, ...]:
    """Of results for the same row the one that was measured last."""
    found = [result for file in files for result in file]
    return latest(sorted(found, key=lambda result: result.measurement.measured_at))


def warn(sentence: str) -> None:
    """Say something on the standard error stream, and go on."""
    typer.echo(f"llmbench: {sentence}", err=True)


def write(path: Path, text: str) -> None:
    """Write a file that was asked for, its folders too, or end the command with why it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as error:
        stop(f"{path}: cannot be written: {error.strerror}")


def columns(otherwise: int = 120) -> int:
    """Of the terminal; where there is none, *otherwise*, which is enough for a table."""
    return shutil.get_terminal_size((otherwise, 24)).columns


def has_color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
