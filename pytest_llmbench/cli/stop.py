"""How a command ends that cannot do what it was asked."""

from __future__ import annotations

from typing import NoReturn

import typer

__all__ = ["stop"]


def stop(sentence: str) -> NoReturn:
    """Say why on the standard error stream, and exit with status 2."""
    typer.echo(f"llmbench: {sentence}", err=True)
    raise typer.Exit(2)
