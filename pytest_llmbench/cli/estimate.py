"""`llmbench estimate`: the memory that cases would take, and the cards on which they fit, without a GPU."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from pytest_llmbench.cli import parameters as given
from pytest_llmbench.cli.console import columns, has_color, stop, write
from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.reports.estimate import MODEL, Estimated, Named, render, to_json
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.estimate import Estimating, bytes_for_tensors
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.units import gib, seconds
from pytest_llmbench.schema.workload import Workload, parse_count
from pytest_llmbench.tables.selection import Selected, select
from pytest_llmbench.trials.progress import Progress

__all__ = ["estimate"]

Length = int | Literal["max"]


def estimate(  # noqa: PLR0913 - each is an option of the command
    *,
    expression: Annotated[
        str, typer.Option("-k", metavar="EXPR", help="Rows whose table[row] matches, as for pytest -k.")
    ] = "",
    table: Annotated[list[str] | None, typer.Option(help="Rows of this table. Repeatable.")] = None,
    step: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:FUNCTION", help="A training step of your own. Repeatable.")
    ] = None,
    step_arguments: given.StepArgumentsOption = None,
    model: Annotated[
        str | None, typer.Option(help="A model by name, directory or hub id; the options up to --num-gpus are its.")
    ] = None,
    tuner: Annotated[str | None, typer.Option(help="lora, or full. [lora]")] = None,
    quantization: Annotated[str | None, typer.Option(help="As bnb-nf4. [bf16]")] = None,
    max_length: Annotated[int | None, typer.Option(help="The most tokens of a sample. [2048]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples of a micro-batch. [1]")] = None,
    attention: Annotated[str | None, typer.Option(help="As sdpa. [flash]")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="[on]")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(help="[8]")] = None,
    lora_targets: Annotated[str | None, typer.Option(help="default, or all. [default]")] = None,
    accumulation_steps: Annotated[int | None, typer.Option(help="Micro-batches of an optimizer step. [16]")] = None,
    num_gpus: Annotated[int | None, typer.Option(help="GPUs over which the layers are split. [1]")] = None,
    length: Annotated[
        str | None,
        typer.Option(
            metavar="N|max",
            help="Tokens of every sample, max for max_length: faster. By default samples are as they are measured.",
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|SIZE", help="Also the largest max_length and batch_size on this card: H100, 80GB, 22.5GiB."
        ),
    ] = None,
    samples: given.SamplesOption = "16",
    timeout: given.TimeoutOption = 600.0,
    path: given.PathOption = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the estimates as JSON.")] = None,
) -> None:
    """
    Estimate what rows, a model or a step of your own take of a GPU's memory, on any machine.

    Exits with status 3 if nothing could be estimated.
    """
    fields = {
        "tuner": tuner,
        "quantization": quantization,
        "max_length": max_length,
        "batch_size": batch_size,
        "attention": attention,
        "gradient_checkpointing": gradient_checkpointing,
        "lora_rank": lora_rank,
        "lora_targets": lora_targets,
        "accumulation_steps": accumulation_steps,
        "num_gpus": num_gpus,
    }
    with given.refusals():
        asked = {name: value for name, value in fields.items() if value is not None}
        by_name = _by_name(model, asked)
        if not (expression or table or step or by_name):
            stop("name rows with -k or --table, a model with --model, or a step of your own with --step")
        selected = by_name
        if expression or table or step or step_arguments:
            arguments = given.step_arguments(step_arguments)
            selected = (*select(expression, table or (), step or (), arguments=arguments), *by_name)
        even = _length(length, selected)
        named = _card(card)
        workload = given.workload("full", "fake", samples)
        rows: list[Estimated] = []
        interrupted = False
        with Progress(Console(stderr=True), len(selected)) as progress:
            machine = Machine(
                "fake", timeout_seconds=timeout, announce=progress.line, path=given.paths(path) if step else ()
            )
            try:
                rows.extend(_estimated(chosen, workload, even, named, machine, progress) for chosen in selected)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                machine.close()
    if rows:
        typer.echo(render(rows, named, width=columns(), color=has_color()))
    if json is not None:
        write(json, to_json(rows, named, even))
    if interrupted:
        typer.echo("llmbench: interrupted", err=True)
        raise typer.Exit(given.INTERRUPTED)
    if not any(row.estimate for row in rows):
        raise typer.Exit(given.NOTHING_MEASURED)


def _by_name(model: str | None, fields: Mapping[str, object]) -> tuple[Selected, ...]:
    """
    The case of a model, if there is one.

    Raises:
        CaseError: see `Case`.
    """
    if model is not None:
        title = ", ".join([model, *(f"{name} {value}" for name, value in fields.items())])
        return (Selected(MODEL, title, Case(model=model, **fields)),)  # type: ignore[arg-type]  # which Case checks
    if fields:
        stop(f"--{next(iter(fields)).replace('_', '-')} is of a model; name it with --model")
    return ()


def _length(text: str | None, selected: Sequence[Selected]) -> Length | None:
    if text is None:
        return None
    if own := next((chosen for chosen in selected if chosen.case.step is not None), None):
        stop(f"--length {text}: {own.row} makes its own samples; leave --length out")
    try:
        found: Length = "max" if text == "max" else parse_count(text, "tokens", "max")
    except ValueError as error:
        stop(f"--length {text}: {error}")
    if found == 1:
        stop("--length 1: a sample of one token has nothing to predict; give 2 or more")
    return found


def _card(text: str | None) -> Named | None:
    if text is None:
        return None
    try:
        return Named(text, bytes_for_tensors(text))
    except ValueError as error:
        stop(f"--card: {error}")


def _estimated(  # noqa: PLR0917
    chosen: Selected,
    workload: Workload,
    length: Length | None,
    card: Named | None,
    machine: Machine,
    progress: Progress,
) -> Estimated:
    """
    Raises:
        SetupError: nothing can be estimated on this machine.
    """
    started = time.monotonic()
    progress.start(chosen.name)
    asked = Estimating(
        length=chosen.case.max_length if length == "max" else length,
        card_bytes=None if card is None else card.bytes_for_tensors,
    )

    def tell(phase: Phase) -> None:
        progress.say(f"{chosen.name}: {phase.name}, {seconds(time.monotonic() - started)}")

    request = Request(case=chosen.case, workload=workload, estimate=asked)
    found = Estimated(chosen, machine.run(request, tell))
    made = found.estimate
    progress.end(found.measurement.outcome if made is None else f"{gib(max(made.reserved_bytes))} GiB reserved")
    return found
