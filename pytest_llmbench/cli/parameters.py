"""Options that several commands share, what their values mean, the report of a comparison, and the exit codes."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import msgspec
import typer

from pytest_llmbench.cli.console import columns, has_color, stop, write
from pytest_llmbench.executors import SetupError
from pytest_llmbench.judge.plan import Plan
from pytest_llmbench.judge.tolerance import ToleranceError
from pytest_llmbench.reports.comparison import markdown, render, to_json
from pytest_llmbench.schema.case import CaseError
from pytest_llmbench.schema.workload import Device, Scale, Workload, device_of, parse_count
from pytest_llmbench.stacks import StackError
from pytest_llmbench.stacks.installer import InstallerName
from pytest_llmbench.stacks.stack import Source, absolute
from pytest_llmbench.store.files import leads_out
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.tables.expression import ExpressionError
from pytest_llmbench.tables.selection import SelectionError
from pytest_llmbench.trials.comparison import Comparison, FailOn, fails
from pytest_llmbench.trials.trial import PAIRED

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "NOTHING_MEASURED",
    "BaseOption",
    "ConstraintsOption",
    "DeviceOption",
    "FailOnOption",
    "InstallerOption",
    "JsonOption",
    "LoopOption",
    "MarkdownOption",
    "MaxPairsOption",
    "PairsOption",
    "PathOption",
    "PythonOption",
    "Reporting",
    "SamplesOption",
    "ScaleOption",
    "SharedGpuOption",
    "StepArgumentsOption",
    "TimeoutOption",
    "TolerancesOption",
    "VerboseOption",
    "new_results_file",
    "paths",
    "plan",
    "refusals",
    "source",
    "step_arguments",
    "workload",
]

FAILED = 1
NOTHING_MEASURED = 3
INTERRUPTED = 130

ScaleOption = Annotated[
    Literal["full", "smoke"],
    typer.Option("--scale", help="full: the published size, on a GPU. smoke: two-layer miniatures, on the CPU."),
]
DeviceOption = Annotated[
    Literal["auto", "cuda", "cpu", "fake"],
    typer.Option(
        "--device",
        help="auto: the GPU at full scale, the CPU at smoke scale. fake: full scale by tensors without content.",
    ),
]
SamplesOption = Annotated[
    str, typer.Option("--samples", metavar="N|full", help="Samples that a process measures, or the whole epoch.")
]
LoopOption = Annotated[
    Literal["step", "trainer"] | None,
    typer.Option("--loop", help="Run every row in this loop: our bare step, or transformers' Trainer."),
]
PairsOption = Annotated[
    int, typer.Option("--pairs", min=1, help="Pairs of processes, one of each side, that a case gets at first.")
]
MaxPairsOption = Annotated[
    int, typer.Option("--max-pairs", min=1, help="The most that it gets, the confirmation of a suspect included.")
]
TolerancesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tolerance", metavar="METRIC=LIMIT", help="How far a metric may move, as samples_per_second=8%. Repeatable."
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=1, help="Seconds after which a measuring process is killed.")
]
SharedGpuOption = Annotated[
    bool,
    typer.Option("--shared-gpu", help="Other programs may use the GPU: that does not make a measurement invalid."),
]
StepArgumentsOption = Annotated[
    str | None,
    typer.Option(
        "--step-arguments",
        metavar="JSON",
        help="Keyword arguments of the steps, as '{\"layers\": 2}': what `Case.custom(arguments=...)` takes.",
    ),
]
PathOption = Annotated[
    list[Path] | None,
    typer.Option("--path", help="Folder with modules of your own steps, by default the current one. Repeatable."),
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="ENV",
        help="Environment below those that are installed: what a file does not ask for, as torch, comes from there.",
    ),
]
PythonOption = Annotated[
    Path | None, typer.Option("--python", help="Interpreter to make environments with, by default this one.")
]
ConstraintsOption = Annotated[
    list[Path] | None, typer.Option("--constraint", help="Constraints file for the installer. Repeatable.")
]
InstallerOption = Annotated[
    Literal["auto", "uv", "pip"], typer.Option("--installer", help="auto: uv if it is on PATH, else pip.")
]
MarkdownOption = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Write the report as Markdown.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the verdicts as JSON.")]
FailOnOption = Annotated[
    list[FailOn] | None,
    typer.Option(
        "--fail-on",
        help="Exit with status 1 if a row regressed or is unmeasured, at each of these words. moved: also if one "
        "improved. undecided: also if noise leaves one open. unmeasured: also if one does not compare, or only one "
        "side has it. inconclusive: the last two together. Repeatable.",
    ),
]

VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show every metric of every row.")]

_ERRORS = (
    CaseError,
    ExpressionError,
    ResultError,
    SelectionError,
    SetupError,
    StackError,
    ToleranceError,
)


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


@contextmanager
def refusals() -> Iterator[None]:
    """What a user can put right ends the command with one sentence, and Ctrl-C without a traceback."""
    try:
        yield
    except _ERRORS as error:
        stop(str(error))
    except KeyboardInterrupt:
        typer.echo("llmbench: interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


def step_arguments(text: str | None) -> dict[str, Any]:
    """Keyword arguments of a step of the user's own, from a JSON object."""
    if text is None:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        stop(f"--step-arguments {text}: {error}; give a JSON object, as '{{\"layers\": 2}}'")


def workload(scale: Scale, device: Literal["auto"] | Device, samples: str) -> Workload:
    """How every case is measured."""
    if device == "cpu" and scale == "full":
        stop("--device cpu runs miniatures only; add --scale smoke")
    if device == "fake" and scale == "smoke":
        stop("--device fake runs the published size; leave --scale smoke out")
    try:
        number: int | Literal["full"] = "full" if samples == "full" else parse_count(samples, "samples", "full")
    except ValueError as error:
        stop(f"--samples {samples}: {error}")
    return Workload(scale=scale, device=device_of(scale, device), samples=number)


def plan(pairs: int, max_pairs: int) -> Plan:
    """How many pairs a case gets."""
    if max_pairs < pairs:
        stop(f"--max-pairs {max_pairs} is less than --pairs {pairs}")
    return Plan(screen=pairs, max_processes=max_pairs, looks=min(PAIRED.looks, max_pairs - pairs))


def source(
    base: str | None,
    python: Path | None,
    constraints: Sequence[Path] | None,
    installer: InstallerName,
    *,
    refresh: bool = False,
) -> Source:
    """How environments are made. Paths are absolute: a comparison may be gone on with from elsewhere."""
    return Source(
        python=None if python is None else str(python.absolute()),
        base=None if base is None else absolute(base),
        constraints=tuple(str(one.absolute()) for one in constraints or ()),
        installer=installer,
        refresh=refresh,
    )


def paths(given: Sequence[Path] | None) -> tuple[str, ...]:
    """Folders of the user's own modules."""
    return tuple(str(folder.absolute()) for folder in given or [Path()])


def new_results_file(command: str) -> Path:
    """A file that is not there yet, beside those of pytest runs."""
    folder = Path("llmbench-results")
    if there := leads_out(folder, Path()):
        stop(f"{folder} is a link to {there}, out of this folder; remove it, or name a file with --results")
    return Path(folder, f"{command}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.jsonl")
