"""Terminal that a command prints to, and the last words of one that cannot do what it was asked."""

from __future__ import annotations

import os
import shutil
import sys
from typing import NoReturn

import typer

__all__ = ["columns", "has_color", "stop"]


def columns(otherwise: int = 120) -> int:
    """Width of the terminal; where there is none, *otherwise*, which is enough for a table."""
    return shutil.get_terminal_size((otherwise, 24)).columns


def has_color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def stop(sentence: str) -> NoReturn:
    """Say why on the standard error stream, and exit with status 2."""
    typer.echo(f"llmbench: {sentence}", err=True)
    raise typer.Exit(2)
