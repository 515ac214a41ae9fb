"""`llmbench calibrate`: the noise of each row, from runs of one environment, kept with its baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from pytest_llmbench.cli.console import columns, has_color, read, stop
from pytest_llmbench.judge.calibration import Calibration, calibrated
from pytest_llmbench.judge.compare import Reference
from pytest_llmbench.reports.terminal import Page
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.schema.units import counted
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.baselines import BaselineStore, folder_name
from pytest_llmbench.store.files import leads_out
from pytest_llmbench.store.results import latest

__all__ = ["calibrate"]

_DEFAULT = Path("baselines")
_HEADINGS = ("sessions / processes", "wall sd %", "wall sees %", "GPU-busy sd %", "GPU-busy sees %")
"""Names of the statistical metrics, in the order of `METRICS`."""


def calibrate(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS.jsonl...", help="Runs of the environment that the baselines are of."),
    ],
    baselines: Annotated[Path, typer.Option(help="Folder of the baselines.")] = _DEFAULT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the table and write nothing.")] = False,
) -> None:
    """
    Learn how much each row moves by itself, and store it with its baseline.

    Measure twice or more with what made the baselines, at different hours, then give the result files.
    """
    if baselines == _DEFAULT and (there := leads_out(baselines, Path())):
        stop(f"{baselines} is a link to {there}, out of this folder; remove it, or say --baselines {there}")
    store = BaselineStore(baselines)
    try:
        store.check_links()
        found = list(_calibrations(store, results))
        for folder, table, row, calibration in found if not dry_run else ():
            store.calibrate(folder, table, row, calibration.noise)
    except BaselineError as error:
        stop(str(error))
    if not found:
        stop(f"{', '.join(map(str, results))}: no result has a baseline in {baselines}")
    _print(found)
    for _, table, row, calibration in found:
        for why in calibration.passed_over:
            typer.echo(f"llmbench: {table}[{row}]: a result is passed over: {why}")
    typer.echo(f"llmbench: {counted(len(found), 'row')} calibrated{', nothing written' if dry_run else ''}")


def _calibrations(store: BaselineStore, files: list[Path]) -> Iterator[tuple[str, str, str, Calibration]]:
    measured: defaultdict[tuple[str, str, str], list[Measurement]] = defaultdict(list)
    for file in read(files):
        for result in latest(file):
            if (environment := result.measurement.environment) is not None:
                folder = folder_name(environment, result.measurement.workload.scale)
                measured[folder, result.table, result.row].append(result.measurement)
    for (folder, table, row), measurements in measured.items():
        against: Reference | None = store.find(measurements[-1], table, row)
        if against is not None and against.measurement.outcome == "ok":
            yield folder, table, row, calibrated(against, measurements)


def _print(found: list[tuple[str, str, str, Calibration]]) -> None:
    page = Page(width=columns(), color=has_color())
    for name in dict.fromkeys(table for _, table, _, _ in found):
        table = Table(title=name, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        table.add_column("row", no_wrap=True, overflow="ellipsis")
        for heading in _HEADINGS:
            table.add_column(heading, justify="right")
        for row, calibration in ((row, found_) for _, of, row, found_ in found if of == name):
            cells = [f"{calibration.sessions} / {calibration.processes}"]
            for metric in METRICS.values():
                if metric.gate == "statistical":
                    cells += _cells(calibration, metric.name)
            table.add_row(row, *cells)
        page.console.print(table)
    page.console.print("sd: between processes / between sessions. sees: the least slow-down that one process notices.")
    typer.echo(page.text())


def _cells(calibration: Calibration, metric: str) -> tuple[str, str]:
    noise, effect = calibration.noise.get(metric), calibration.detectable.get(metric)
    if noise is None or effect is None:
        return "unknown", ""
    sees = f"{100 * effect:.1f}" + (" advisory" if metric in calibration.advisory else "")
    return f"{100 * noise.process_sd:.2f} / {100 * noise.session_sd:.2f}", sees
