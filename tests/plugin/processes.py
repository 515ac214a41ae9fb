"""
A plugin whose executor has real processes that need no torch: what a case does is in its model's name.

The model `7s` takes seven seconds, every other one no time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from pytest_llmbench.environment import Environment
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.measurement import Measurement, Process
from pytest_llmbench.protocol import Phase, Request


def measure(request: Request, report: Callable[[Phase], None]) -> Measurement:
    """The function that the measuring process calls."""
    report(Phase("rounds"))
    if match := re.fullmatch(r"(\d+)s", request.case.model):
        time.sleep(int(match[1]))
    environment = Environment(
        device="cpu",
        num_devices=1,
        device_memory_bytes=None,
        driver=None,
        cuda=None,
        power_limit_watts=None,
        allocator={},
        python="3.11.7",
        cpu="a CPU",
        num_cpus=2,
        system="Linux",
        packages={},
    )
    return Measurement(
        case=request.case,
        workload=request.workload,
        environment=environment,
        processes=(Process(outcome="ok", metrics={"operators_per_sample": 12.0}),),
        measured_at="2026-11-24T10:00:00+00:00",
    )


def pytest_llmbench_executor() -> LocalExecutor:
    return LocalExecutor(timeout_seconds=60, announce=print, measure="processes:measure", preload=())
