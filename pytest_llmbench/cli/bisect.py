"""`llmbench bisect`: which package of two lock files moves a case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pytest_llmbench.cli import parameters as given
from pytest_llmbench.cli.console import stop, write
from pytest_llmbench.judge.tolerance import parse_tolerances
from pytest_llmbench.reports.bisection import sentences, to_json
from pytest_llmbench.schema.credentials import redacted
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.stacks.requirements import Requirements, changed_names, read_requirements
from pytest_llmbench.store.journal import Asked, Journal, Named
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.tables.selection import find_case
from pytest_llmbench.trials.bisection.bisect import Bisected
from pytest_llmbench.trials.bisection.bisect import bisect as run_bisection
from pytest_llmbench.trials.bisection.mixtures import Mixtures
from pytest_llmbench.trials.bisection.signature import NothingToFollow
from pytest_llmbench.trials.progress import Progress
from pytest_llmbench.trials.trial import PAIRED

__all__ = ["bisect"]


def bisect(  # noqa: PLR0913 - each is an option of the command
    *,
    good: Annotated[Path, typer.Option(metavar="LOCK", help="Requirements file of the environment before the change.")],
    bad: Annotated[Path, typer.Option(metavar="LOCK", help="Requirements file of the environment after it.")],
    case: Annotated[
        str | None, typer.Option(metavar="ID", help="Row as table[row], or module:function of a step of your own.")
    ] = None,
    step_arguments: given.StepArgumentsOption = None,
    metric: Annotated[
        str | None, typer.Option(help="What to follow; by default the metric that is most beyond its limit.")
    ] = None,
    versions: Annotated[
        bool, typer.Option("--versions", help="Then go through the versions between, as the package index has them.")
    ] = False,
    among: Annotated[
        str | None, typer.Option(metavar="V1,V2,...", help="The versions to go through; implies --versions.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not remove the environments.")] = False,
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
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File for each pair as it comes. [llmbench-results/bisect-...jsonl]"),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Go on with the bisection that wrote FILE, as it was asked for.")
    ] = None,
    json: given.JsonOption = None,
) -> None:
    """
    Find the package of two lock files whose change moves a case, by measuring mixtures of the two.

    Exits with status 0 if it is found, 1 if it is not, 3 if good and bad do not differ.
    """
    with given.refusals():
        locks = read_requirements(good), read_requirements(bad)
        if not changed_names(*locks):
            stop(f"{good} and {bad} ask for the same packages")
        wanted = tuple(filter(None, among.split(","))) if among else () if versions else None
        if resume is not None:
            journal = Journal.resume(resume)
        else:
            if case is None:
                stop("name the case to measure, --case ID, or a bisection to go on with, --resume FILE")
            if metric is not None and metric not in METRICS:
                stop(f"--metric {metric}: no such metric; there are {', '.join(METRICS)}")
            asked = Asked(
                command="bisect",
                a=Named(str(good.absolute()), locks[0].printable_lines),
                b=Named(str(bad.absolute()), locks[1].printable_lines),
                source=given.source(base, python, constraint, installer),
                selected=(find_case(case, loop, given.step_arguments(step_arguments)),),
                workload=given.workload(scale, device, samples),
                plan=given.plan(pairs, max_pairs),
                tolerances=parse_tolerances(tolerance or ()),
                path=given.paths(path),
                timeout_seconds=timeout,
                shared_gpu=shared_gpu,
                metric=metric,
            )
            journal = Journal.begin(results or given.new_results_file("bisect"), asked)
        with journal:
            _check_same(journal, locks)
            bisected = _run(journal, locks, wanted, keep=keep)
    for sentence in sentences(bisected, *locks):
        typer.echo(f"llmbench: {sentence}")
    if json is not None:
        write(json, to_json(bisected))
    raise typer.Exit(0 if bisected.found.how in ("alone", "inseparable", "left") else given.FAILED)


def _run(
    journal: Journal, locks: tuple[Requirements, Requirements], versions: tuple[str, ...] | None, *, keep: bool
) -> Bisected:
    try:
        with Progress(Console(stderr=True)) as progress, Mixtures(journal, *locks, progress, keep=keep) as mixtures:
            if keep:
                progress.line(f"environments are kept in {mixtures.folder}")
            return run_bisection(mixtures, progress.line, versions=versions)
    except NothingToFollow as error:
        typer.echo(f"llmbench: {error}", err=True)
        raise typer.Exit(given.NOTHING_MEASURED) from None
    finally:
        typer.echo(f"llmbench: {journal.path}; --resume goes on with it", err=True)


def _check_same(journal: Journal, locks: tuple[Requirements, Requirements]) -> None:
    for named, lock in zip((journal.asked.a, journal.asked.b), locks, strict=True):
        if {redacted(name): redacted(line) for name, line in named.packages.items()} != lock.printable_lines:
            raise ResultError(
                f"{named.name} no longer asks for what {journal.path} has measured; start a new bisection"
            )
