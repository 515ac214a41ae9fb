"""What the processes of `test_pool` do: sleep for as long as the case's name says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Phase, Request


def measure(request: Request, report: Callable[[Phase], None]) -> Measurement:
    report(Phase("rounds"))
    name, _, seconds = request.case.model.partition(" ")
    time.sleep(float(seconds))
    if name == "error":
        raise ValueError(name)
    process = Process(outcome="ok", ran={"devices": os.environ.get("CUDA_VISIBLE_DEVICES", "")})
    return Measurement(
        case=request.case, workload=request.workload, environment=None, processes=(process,), measured_at=""
    )
