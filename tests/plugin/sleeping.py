"""
A plugin for runs on real processes that sleep, and what these do: as long as the last word of the case's name says.

On the GPUs that NVML shows if the run is at full scale, else on the CPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import surroundings
from pytest_llmbench.schema.environment import installed_packages
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Phase, Request

if TYPE_CHECKING:
    import pytest

    from pytest_llmbench.executors import Executor

ENVIRONMENT = surroundings.environment(device="cpu", python="3", packages=installed_packages())


def measure(request: Request, report: Callable[[Phase], None]) -> Measurement:
    started = time.time()
    time.sleep(float(request.case.model.split()[-1]))
    line = f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {started} {time.time()} {request.case.model}\n"
    with Path(os.environ["LLMBENCH_TEST_SLEPT"]).open("a") as stream:
        stream.write(line)
    process = Process(outcome="ok", metrics={"samples_per_second": 1.0, "parameters": 1}, phase_seconds={"rounds": 1.0})
    return Measurement(
        case=request.case,
        workload=request.workload,
        environment=ENVIRONMENT,
        processes=(process,),
        measured_at="2026-01-01T00:00:00+00:00",
    )


def pytest_llmbench_executor(config: pytest.Config) -> Executor:
    # The servers of its processes do without these.
    from pytest_llmbench.executors.choice import in_parallel
    from pytest_llmbench.executors.machine import Machine
    from pytest_llmbench.executors.pool import Announcements

    announcements = Announcements(print)
    machine = Machine(
        "cpu" if config.getoption("--llmbench-scale") == "smoke" else "cuda",
        timeout_seconds=60,
        announce=announcements,
        measure="sleeping:measure",
        preload=(),
    )
    jobs = int(os.environ.get("LLMBENCH_TEST_JOBS", "1"))
    return in_parallel(
        machine, jobs, seconds=lambda request: float(request.case.model.split()[-1]), announcements=announcements
    )
