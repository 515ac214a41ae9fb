"""
The `llmbench` command: what is done with results and baselines outside of a pytest run.

One module per command; this one puts them together.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pytest_llmbench.cli import report, show

__all__ = ["app", "main"]

app = typer.Typer(name="llmbench", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("show")(show.show)
app.command("report")(report.report)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pytest_llmbench import __version__

        typer.echo(f"pytest-llmbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Performance-regression tests of LLM fine-tuning: results and baselines outside of pytest."""


def main() -> None:
    app()
