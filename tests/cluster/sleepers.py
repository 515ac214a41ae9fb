"""What cases do on the nodes of these tests: sleep for as long as the last word of the case's name says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Phase, Request


def measure(request: Request, report: Callable[[Phase], None]) -> Measurement:
    time.sleep(float(request.case.model.split()[-1]))
    environment = Environment(
        device=os.environ.get("FAKE_NVML_NAME", "cpu"),
        num_devices=request.case.num_gpus,
        device_memory_bytes=None,
        driver=None,
        cuda=None,
        power_limit_watts=None,
        allocator={},
        python="3",
        cpu="a CPU",
        num_cpus=1,
        system="Linux",
        packages={},
    )
    process = Process(
        outcome="ok",
        metrics={"samples_per_second": 1.0, "parameters": 1},
        ran={"node": os.environ.get("TEST_NODE", ""), "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "")},
    )
    return Measurement(
        case=request.case,
        workload=request.workload,
        environment=environment,
        processes=(process,),
        measured_at="2026-01-01T00:00:00+00:00",
    )
