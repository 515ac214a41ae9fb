"""End of a comparison: the report on the screen and in files, and the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, NoReturn

import typer

from pytest_llmbench.cli.console import columns, has_color, write
from pytest_llmbench.cli.parameters import FAILED, NOTHING_MEASURED
from pytest_llmbench.reports.comparison import markdown, render, to_json
from pytest_llmbench.trials.comparison import Comparison, FailOn, fails

__all__ = ["Reporting"]


class Reporting(NamedTuple):
    """Where a report goes, and at what a command fails."""

    markdown: Path | None
    json: Path | None
    fail_on: tuple[FailOn, ...]
    verbose: bool
    """Show every metric, and not only those that say something."""

    def show(self, comparison: Comparison) -> None:
        """Print the report and write the files."""
        typer.echo(render(comparison, width=columns(), color=has_color(), every_metric=self.verbose))
        if self.markdown is not None:
            write(self.markdown, markdown(comparison, every_metric=self.verbose))
        if self.json is not None:
            write(self.json, to_json(comparison))

    def end(self, comparison: Comparison) -> NoReturn:
        """Exit as the verdicts say."""
        if not any(row.is_measured for row in comparison.rows):
            raise typer.Exit(NOTHING_MEASURED)
        raise typer.Exit(FAILED if fails(comparison, self.fail_on) else 0)
