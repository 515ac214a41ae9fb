"""
A plugin whose executor has real processes that need no torch: what a case does is in its model's name.

The model `7s` takes seven seconds, every other one no time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import surroundings
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Phase, Request


def measure(request: Request, report: Callable[[Phase], None]) -> Measurement:
    """The function that the measuring process calls."""
    report(Phase("rounds"))
    if match := re.fullmatch(r"(\d+)s", request.case.model):
        time.sleep(int(match[1]))
    environment = surroundings.environment(device="cpu", python="3.11.7", num_cpus=2)
    return Measurement(
        case=request.case,
        workload=request.workload,
        environment=environment,
        processes=(Process(outcome="ok", metrics={"operators_per_sample": 12.0}),),
        measured_at="2026-11-24T10:00:00+00:00",
    )


def pytest_llmbench_executor() -> LocalExecutor:
    return LocalExecutor(timeout_seconds=60, announce=print, measure="processes:measure", preload=())
