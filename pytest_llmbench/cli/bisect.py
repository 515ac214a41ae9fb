"""`llmbench bisect`: which package of two lock files moves a case, and which commit of a package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import msgspec
import typer
from packaging.utils import canonicalize_name
from rich.console import Console

from pytest_llmbench.cli import parameters as given
from pytest_llmbench.cli.console import stop, write
from pytest_llmbench.judge.tolerance import parse_tolerances
from pytest_llmbench.reports.bisection import commit_sentences, sentences, to_json
from pytest_llmbench.schema.credentials import redacted
from pytest_llmbench.schema.libraries import modules_of
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.stacks.history import Commit, History, absolute_repository, open_history
from pytest_llmbench.stacks.requirements import Requirements, changed_names, read_requirements
from pytest_llmbench.stacks.stack import CURRENT
from pytest_llmbench.store.journal import Asked, Journal, Named
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.tables.selection import find_case
from pytest_llmbench.trials.bisection.bisect import bisect as run_bisection
from pytest_llmbench.trials.bisection.bisect import bisect_commits
from pytest_llmbench.trials.bisection.commits import ends_of
from pytest_llmbench.trials.bisection.environments import Environments
from pytest_llmbench.trials.bisection.signature import NothingToFollow
from pytest_llmbench.trials.progress import Progress
from pytest_llmbench.trials.trial import PAIRED

__all__ = ["bisect"]


def bisect(  # noqa: PLR0913 - each is an option of the command
    *,
    good: Annotated[
        str,
        typer.Option(
            metavar="LOCK|REV", help="Requirements file of the environment before the change; with --package a commit."
        ),
    ],
    bad: Annotated[str, typer.Option(metavar="LOCK|REV", help="The same of the environment after it.")],
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
    package: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go through the commits of this package, which --repo has.")
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL", help="Git repository. Without --package: of the package that is found, to go on with."
        ),
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

    With --package and --repo: find the commit of one package that makes a case worse. --good and --bad are then
    revisions of the repository, and all other packages are those of --base.

    Exits with status 0 if it is found, 1 if it is not, 3 if good and bad do not differ.
    """
    if package is not None and (repo is None or versions or among):
        stop(f"--package {package} goes through commits: name their repository, --repo, and no --versions or --among")
    if package is not None and python is not None:
        stop("--package installs over an environment, which brings its own Python: name that, --base, and no --python")
    with given.refusals(), Progress(Console(stderr=True)) as progress:
        history = None if repo is None else open_history(repo, progress.say)
        ends: _Locks | _Commits
        if package is None or history is None:
            wanted = tuple(filter(None, among.split(","))) if among else () if versions else None
            ends = _Locks.read(good, bad, wanted, history)
        else:
            ends = _Commits((good, bad), *ends_of(history, good, bad), canonicalize_name(package), history)
            _check_unshadowed(ends.package, given.paths(path))
        named = ends.named()
        repository = None if repo is None else absolute_repository(repo)
        if resume is not None:
            journal = Journal.resume(resume)
        else:
            if case is None:
                stop("name the case to measure, --case ID, or a bisection to go on with, --resume FILE")
            if metric is not None and metric not in METRICS:
                stop(f"--metric {metric}: no such metric; there are {', '.join(METRICS)}")
            asked = Asked(
                command="bisect",
                a=named[0],
                b=named[1],
                source=given.source(CURRENT if package and base is None else base, python, constraint, installer),
                selected=(find_case(case, loop, given.step_arguments(step_arguments)),),
                workload=given.workload(scale, device, samples),
                plan=given.plan(pairs, max_pairs),
                tolerances=parse_tolerances(tolerance or ()),
                path=given.paths(path),
                timeout_seconds=timeout,
                shared_gpu=shared_gpu,
                metric=metric,
                repository=repository,
            )
            journal = Journal.begin(results or given.new_results_file("bisect"), asked)
        with journal:
            _check_same(journal, named, repository)
            answer = _run(journal, ends, progress, keep=keep)
    for sentence in answer.sentences:
        typer.echo(f"llmbench: {sentence}")
    if json is not None:
        write(json, answer.json)
    raise typer.Exit(0 if answer.is_found else given.FAILED)


class _Answer(NamedTuple):
    """What a bisection came to."""

    sentences: tuple[str, ...]
    json: str
    is_found: bool


class _Locks(NamedTuple):
    """Two lock files, between which a package is sought, then a version of it, then a commit."""

    names: tuple[Path, Path]
    good: Requirements
    bad: Requirements
    versions: tuple[str, ...] | None
    history: History | None

    @classmethod
    def read(cls, good: str, bad: str, versions: tuple[str, ...] | None, history: History | None) -> Self:
        """
        Raises:
            StackError: a file cannot be read.
        """
        names = Path(good), Path(bad)
        locks = read_requirements(names[0]), read_requirements(names[1])
        if not changed_names(*locks):
            stop(f"{good} and {bad} ask for the same packages")
        return cls(names, *locks, versions, history)

    def named(self) -> tuple[Named, Named]:
        """Both ends, as a journal has them."""
        good, bad = (str(name.absolute()) for name in self.names)
        return Named(good, self.good.printable_lines), Named(bad, self.bad.printable_lines)

    def run(self, environments: Environments) -> _Answer:
        """Find the package."""
        found = run_bisection(environments, self.good, self.bad, versions=self.versions, history=self.history)
        return _Answer(tuple(sentences(found, self.good, self.bad)), to_json(found), found.is_found)


class _Commits(NamedTuple):
    """Two revisions of a package's repository, between which a commit is sought."""

    names: tuple[str, str]
    good: Commit
    bad: Commit
    package: str
    history: History

    def named(self) -> tuple[Named, Named]:
        """Both ends, as a journal has them."""
        good, bad = self.names
        return Named(good, {self.package: self.good.hash}), Named(bad, {self.package: self.bad.hash})

    def run(self, environments: Environments) -> _Answer:
        """Find the commit."""
        found = bisect_commits(environments, self.history, self.package, (self.good, self.bad))
        return _Answer(tuple(commit_sentences(found)), to_json(found), found.is_found)


def _run(journal: Journal, ends: _Locks | _Commits, progress: Progress, *, keep: bool) -> _Answer:
    key = msgspec.json.encode(ends.named()).decode()
    try:
        with Environments(journal, key, progress, keep=keep) as environments:
            if keep:
                progress.line(f"environments are kept in {environments.folder}")
            return ends.run(environments)
    except NothingToFollow as error:
        typer.echo(f"llmbench: {error}", err=True)
        raise typer.Exit(given.NOTHING_MEASURED) from None
    finally:
        typer.echo(f"llmbench: {journal.path}; --resume goes on with it", err=True)


def _check_unshadowed(package: str, path: Sequence[str]) -> None:
    """End the command where a folder on the path has the package: what lies there would be measured for each commit."""
    for folder in path:
        for module in modules_of(package):
            if Path(folder, module).is_dir() or Path(folder, f"{module}.py").is_file():
                stop(
                    f"{folder} is on the path for your own steps and has {module}, which would be measured in place of "
                    "each commit; start from another folder, or name that of your steps, --path"
                )


def _check_same(journal: Journal, named: tuple[Named, Named], repository: str | None) -> None:
    """Raise where a bisection that is gone on with was asked for something else."""
    for then, now in zip((journal.asked.a, journal.asked.b), named, strict=True):
        if {redacted(name): redacted(line) for name, line in then.packages.items()} != now.packages:
            raise ResultError(f"{now.name} no longer asks for what {journal.path} has measured; start a new bisection")
    before = journal.asked.repository
    if None not in (before, repository) and before != repository:
        raise ResultError(f"{journal.path} was asked for commits of {before}, and not of {repository}")
