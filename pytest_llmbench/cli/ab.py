"""`llmbench ab`: two environments measured in turn on one machine, and a verdict for each case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pytest_llmbench.cli import parameters as given
from pytest_llmbench.cli.console import stop
from pytest_llmbench.judge.tolerance import parse_tolerances
from pytest_llmbench.stacks.stack import absolute
from pytest_llmbench.store.journal import Asked, Named
from pytest_llmbench.tables.selection import select
from pytest_llmbench.trials.pairs import comparison_of, judge_of
from pytest_llmbench.trials.progress import Progress
from pytest_llmbench.trials.session import begin, go_on, measure_all
from pytest_llmbench.trials.trial import PAIRED

__all__ = ["ab"]


def ab(  # noqa: PLR0913 - each is an option of the command
    *,
    a: Annotated[str | None, typer.Option("--a", metavar="ENV", help="Environment before the change.")] = None,
    b: Annotated[str | None, typer.Option("--b", metavar="ENV", help="Environment after it.")] = None,
    expression: Annotated[
        str, typer.Option("-k", metavar="EXPR", help="Rows whose table[row] matches, as for pytest -k.")
    ] = "",
    table: Annotated[list[str] | None, typer.Option(help="Rows of this table. Repeatable.")] = None,
    step: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:FUNCTION", help="A training step of your own. Repeatable.")
    ] = None,
    step_arguments: given.StepArgumentsOption = None,
    scale: given.ScaleOption = "full",
    device: given.DeviceOption = "auto",
    samples: given.SamplesOption = "16",
    loop: given.LoopOption = None,
    pairs: given.PairsOption = PAIRED.screen,
    max_pairs: given.MaxPairsOption = PAIRED.max_processes,
    tolerance: given.TolerancesOption = None,
    timeout: given.TimeoutOption = 600.0,
    shared_gpu: given.SharedGpuOption = False,
    path: given.PathOption = None,
    base: given.BaseOption = None,
    python: given.PythonOption = None,
    constraint: given.ConstraintsOption = None,
    installer: given.InstallerOption = "auto",
    refresh: Annotated[bool, typer.Option("--refresh", help="Install anew what the cache has.")] = False,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File for each pair as it comes. [llmbench-results/ab-...jsonl]")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go on with the comparison that wrote FILE, as it was asked for."),
    ] = None,
    markdown: given.MarkdownOption = None,
    json: given.JsonOption = None,
    fail_on: given.FailOnOption = None,
    verbose: given.VerboseOption = False,
) -> None:
    """
    Measure two environments in turn, A B B A, in fresh processes on one machine, and judge each case.

    ENV is a virtual environment's folder, a requirements file, which is installed into a cached
    environment, or 'current'. It needs the libraries under test; the measuring part of this package is
    brought along.
    """
    reporting = given.Reporting(markdown, json, tuple(fail_on or ()), verbose)
    with given.refusals():
        if resume is not None:
            _run(resume, None, reporting)
        if a is None or b is None:
            stop("name both environments, --a ENV --b ENV, or a comparison to go on with, --resume FILE")
        selected = select(expression, table or (), step or (), loop, given.step_arguments(step_arguments))
        asked = Asked(
            command="ab",
            a=Named(absolute(a), {}),
            b=Named(absolute(b), {}),
            source=given.source(base, python, constraint, installer, refresh=refresh),
            selected=selected,
            workload=given.workload(scale, device, samples),
            plan=given.plan(pairs, max_pairs),
            tolerances=parse_tolerances(tolerance or ()),
            path=given.paths(path),
            timeout_seconds=timeout,
            shared_gpu=shared_gpu,
        )
        _run(results or given.new_results_file("ab"), asked, reporting)


def _run(file: Path, asked: Asked | None, reporting: given.Reporting) -> None:
    """Go on with *file*, or begin it with what was *asked*; exits."""
    with Progress(Console(stderr=True)) as progress:
        started = go_on(file, progress) if asked is None else begin(file, asked, progress)
        interrupted = False
        with started.journal:
            try:
                measure_all(started, progress)
            except KeyboardInterrupt:
                interrupted = True
    comparison = comparison_of(started.journal, judge_of(started.journal.asked), started.left_out)
    reporting.show(comparison)
    typer.echo(f"llmbench: {file}", err=True)
    if interrupted:
        typer.echo(f"llmbench: interrupted; llmbench ab --resume {file} goes on", err=True)
        raise typer.Exit(given.INTERRUPTED)
    reporting.end(comparison)
