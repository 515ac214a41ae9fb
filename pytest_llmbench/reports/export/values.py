"""What one row gave, as the formats of other tools want it: one number a metric, and its spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_llmbench.judge.values import process_value
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.store.results import Result

__all__ = ["Series", "numbers", "ok_processes", "series"]


class Series(NamedTuple):
    """One metric of one row: a finite number per process that ended well, for one GPU where it is per GPU."""

    metric: str
    gpu: int | None
    """None where the metric is not per GPU, or there is one GPU only."""
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        return self.metric if self.gpu is None else f"{self.metric}_gpu{self.gpu}"


def ok_processes(result: Result) -> tuple[Process, ...]:
    return tuple(process for process in result.measurement.processes if process.outcome == "ok")


def series(result: Result) -> Iterator[Series]:
    """Every metric that a process of the row measured, in the order of `METRICS`."""
    processes = ok_processes(result)
    measured = {name for process in processes for name in process.metrics}
    for metric in [*(name for name in METRICS if name in measured), *sorted(measured - set(METRICS))]:
        rows = [numbers(process, metric) for process in processes]
        gpus = max(map(len, rows))
        for gpu in range(gpus):
            values = tuple(row[gpu] for row in rows if len(row) > gpu and math.isfinite(row[gpu]))
            if values:
                yield Series(metric, gpu if gpus > 1 else None, values)


def numbers(process: Process, metric: str) -> Sequence[float]:
    """The metric of a process, one number per GPU where it is per GPU; empty where it was not measured."""
    value = process_value(process, metric)
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
