"""
The `llmbench` command: what is done with results and baselines outside of a pytest run.

One module per command; this one puts them together.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pytest_llmbench.cli import (
    ab,
    baselines,
    bisect,
    calibrate,
    comment,
    compare,
    doctor,
    estimate,
    export,
    history,
    init,
    reference,
    replay,
    report,
    show,
)
from pytest_llmbench.cli.console import stop
from pytest_llmbench.schema.metrics import add_extensions

__all__ = ["app", "main"]

app = typer.Typer(
    name="llmbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # which would take `table[row]` in a help for markup
)
for _command in (
    show,
    report,
    compare,
    ab,
    bisect,
    estimate,
    calibrate,
    history,
    export,
    comment,
    doctor,
    init,
    replay,
    reference,
):
    _name = _command.__name__.rpartition(".")[2]
    app.command(_name)(getattr(_command, _name))

app.add_typer(baselines.baselines, name="baselines")


def _print_version(wanted: bool) -> None:
    if wanted:
        from pytest_llmbench import __version__

        typer.echo(f"pytest-llmbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Performance-regression tests of LLM fine-tuning: results and baselines outside of pytest."""
    broken = add_extensions()
    if broken and context.invoked_subcommand != "doctor":  # which tells of it beside all else
        stop(broken[0])


def main() -> None:
    app()
