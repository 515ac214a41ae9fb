"""`llmbench replay`: one row measured again, with everything printed that is known of it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from pytest_llmbench.cli.console import read, stop
from pytest_llmbench.executors import NotMeasurable, SetupError
from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.judge.compare import judge
from pytest_llmbench.judge.values import number_text, number_texts
from pytest_llmbench.reports.table import change_text
from pytest_llmbench.schema.environment import version_text
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.metrics import METRICS, MIB, title
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.text import hint_at
from pytest_llmbench.schema.units import gib, seconds
from pytest_llmbench.schema.workload import Scale, Workload, device_of
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.results import Result, latest
from pytest_llmbench.tables import ALL_TABLES

__all__ = ["Chosen", "choose", "replay"]


class Chosen(NamedTuple):
    """The row to measure."""

    table: str
    row: str
    request: Request


def replay(  # noqa: PLR0917 - each is an option of the command
    row: Annotated[str, typer.Argument(metavar="ROW", help="As batch_size[qwen-7b-chat-batch-4], or the row alone.")],
    results: Annotated[
        Path | None,
        typer.Option(metavar="RESULTS.jsonl", help="Measure it as it was in this file, instead of in the tables."),
    ] = None,
    scale: Annotated[Scale, typer.Option(help="Of a row of the tables; smoke: a miniature on the CPU.")] = "full",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="After which the process is killed.")] = 600.0,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a trace of one step, for Perfetto, and on a GPU the allocator's history as FILE.memory.pickle.",
        ),
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Import this step if the file names it; no other is imported. Repeatable."
        ),
    ] = None,
    baselines: Annotated[Path, typer.Option(help="Folder of the baselines.")] = Path("baselines"),
) -> None:
    """Measure one row again and print everything; exits with status 1 if it fails."""
    written = latest(*read([results])) if results else None
    try:
        chosen = choose(row, written, scale)
        _check_step(chosen, results, step or ())
    except ValueError as error:  # among them ResultError
        stop(str(error))
    typer.echo(f"{chosen.table}[{chosen.row}]")
    typer.echo(_fields(chosen.request))
    asked = msgspec.structs.replace(chosen.request, trace=str(trace.resolve()) if trace else None)
    measurement = _measure(asked, timeout)
    for line in _lines(measurement):
        typer.echo(line)
    store = BaselineStore(baselines)
    try:
        verdict = judge(measurement, store.find(measurement, chosen.table, chosen.row))
    except BaselineError as error:
        stop(str(error))
    typer.echo(f"\nverdict {verdict.status}: {verdict.reason}")
    for metric in verdict.metrics:
        before, now = number_texts(metric)
        name = title(metric.metric)
        gates = "" if metric.gates else " (advisory)"
        typer.echo(f"  {name:<24}{before:>14} ->{now:>14} {change_text(metric):>9}  {metric.status}{gates}")
        for mover in metric.movers:
            typer.echo(f"    {mover}")
    if verdict.failed:
        raise typer.Exit(1)


def choose(row: str, results: tuple[Result, ...] | None, scale: Scale) -> Chosen:
    """
    The one row that is meant: of *results*, or without them of the published tables.

    Raises:
        ValueError: no row, or several, go by that name.
    """
    if results is not None:
        known = {
            f"{one.table}[{one.row}]": Chosen(
                one.table, one.row, Request(case=one.measurement.case, workload=one.measurement.workload)
            )
            for one in results
        }
    else:
        workload = Workload(scale=scale, device=device_of(scale))
        known = {
            f"{table.name}[{one.id}]": Chosen(table.name, one.id, Request(case=one.case, workload=workload))
            for table in ALL_TABLES.values()
            for one in table.rows
        }
    found = [name for name, chosen in known.items() if row in (name, chosen.row)]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise ValueError(f"{row!r} is the name of several rows; write one of {', '.join(found)}")
    hint = hint_at(row, known, f"known are, among {len(known)}: {', '.join([*known][:3])}")
    raise ValueError(f"there is no row {row!r}; {hint}")


def _check_step(chosen: Chosen, results: Path | None, trusted: Collection[str]) -> None:
    """
    A file is data: a step that it names is run if the user names it, too.

    Raises:
        ValueError: the user did not.
    """
    named = chosen.request.case.step
    if named is not None and named not in trusted:
        raise ValueError(
            f"{results}, row {chosen.table}[{chosen.row}], field step: {named} is code that only this file names; "
            f"add --step {named} to import it"
        )


def _measure(request: Request, timeout: float) -> Measurement:
    machine = Machine(request.workload.device, timeout_seconds=timeout, announce=typer.echo)
    started = time.monotonic()
    told: list[Phase] = []

    def tell(phase: Phase) -> None:
        if told[-1:] == [phase]:  # it goes on
            return
        told.append(phase)
        speed = f" {phase.samples_per_second:.2f} samples/s" if phase.samples_per_second else ""
        typer.echo(f"  {time.monotonic() - started:7.2f} s  {phase.name}{speed}")

    try:
        typer.echo(f"on {machine}")
        return machine.run(request, tell)
    except (NotMeasurable, SetupError) as error:
        stop(str(error))
    finally:
        machine.close()


def _fields(request: Request) -> str:
    case = {name: value for name, value in msgspec.structs.asdict(request.case).items() if value not in (None, {})}
    workload: dict[str, object] = {"scale": request.workload.scale, "samples": request.workload.samples}
    if request.workload.injection is not None:
        workload["planted"] = request.workload.injection.text
    return "\n".join(f"  {name:<24}{value}" for name, value in {**case, **workload}.items())


def _lines(measurement: Measurement) -> Iterator[str]:
    yield f"\noutcome {measurement.outcome}" + (f": {measurement.reason}" if measurement.reason else "")
    if measurement.environment is not None:
        environment, origins = measurement.environment, measurement.environment.origins or {}
        told = (f"{name} {version_text(one, origins.get(name))}" for name, one in environment.packages.items())
        yield f"  {environment.device}, driver {environment.driver}, {', '.join(told)}"
        if environment.repository is not None:
            yield f"  repository {environment.repository}"
        if environment.ci is not None:
            yield f"  CI run {environment.ci}"
    for process in measurement.processes:
        yield from _process(process)


def _process(process: Process) -> Iterator[str]:
    for number, one in enumerate(process.rounds, start=1):
        yield f"  round {number:<18}{one.samples} samples, {one.tokens} tokens in {seconds(one.seconds)}"
    for name, value in process.metrics.items():
        yield f"  {name:<40}{_with_unit(number_text(name, value), name)}"
    for reason in dict.fromkeys(process.missing.values()):
        names = [name for name, why in process.missing.items() if why == reason]
        yield f"  not measured ({reason}): {', '.join(names)}"
    for name, text in process.ran.items():
        yield f"  ran {name:<20}{text}"
    for name, found in msgspec.structs.asdict(process.evidence).items():
        if found is not None:
            yield f"  {name:<40}{_evidence_text(name, found)}"
    for kernel in process.kernels:
        yield f"  kernel {kernel.name:<48}{kernel.seconds_per_sample * 1e3:10.3f} ms {kernel.launches_per_sample:10.1f}"
    for share in process.peak_allocations:
        count = "" if share.count is None else str(share.count)
        yield f"  alive at peak {share.name:<90}{share.bytes / MIB:12,.1f} MiB {count:>5}"
    for name, spent in process.phase_seconds.items():
        yield f"  phase {name:<18}{seconds(spent)}"


def _with_unit(text: str, metric: str) -> str:
    """A number of `number_text`, and the unit that this gives it."""
    unit = METRICS[metric].unit if metric in METRICS else ""
    shown = {"B": "GiB", "s": "ms", "1/s": "/s", "1": "", "ratio": ""}.get(unit, unit)
    return f"{text} {shown}".rstrip()


def _evidence_text(name: str, value: object) -> str:
    """A field of `Evidence`, one part for each GPU."""
    parts = value if isinstance(value, tuple) else (value,)
    return "+".join(_part_text(name, part) for part in parts)


def _part_text(name: str, value: object) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if name.endswith("_bytes"):
        return f"{gib(value)} GiB"
    if name.endswith("_seconds"):
        return seconds(value)
    if name.endswith("_seconds_per_sample"):
        return f"{value * 1e3:.2f} ms"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
