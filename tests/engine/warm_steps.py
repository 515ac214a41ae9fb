"""What the measuring processes of `test_warm_server` do with torch."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable

from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Phase, Request

IMPORTED = "torch" in sys.modules  # when this process came to this module

import torch  # noqa: E402


def measure(request: Request, report: Callable[[Phase], None]) -> Measurement:
    """Run the function of this module that the case names."""
    assert request.case.step is not None
    process = globals()[request.case.step.partition(":")[2]]()
    return Measurement(
        case=request.case, workload=request.workload, environment=None, processes=(process,), measured_at=""
    )


def cpu_sum() -> Process:
    return _sum("cpu")


def gpu_sum() -> Process:
    return _sum("cuda")


def _sum(device: str) -> Process:
    ones = torch.ones(64, 64, device=device)
    ran = {"imported": str(IMPORTED), "pid": str(os.getpid())}
    return Process(outcome="ok", metrics={"loss_last": (ones @ ones).sum().item()}, ran=ran)


def gpu_capability() -> Process:
    at_import = importlib.import_module("asks_for_capability").FOUND
    now = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    ran = {"answer at import": str(at_import), "answer of CUDA": str(now)}
    return Process(outcome="ok", ran=ran)


def gpu_used_bytes() -> Process:
    free, total = torch.cuda.mem_get_info()
    return Process(outcome="ok", metrics={"peak_footprint_bytes": total - free})


def killed_with_gpu_memory() -> Process:
    held = torch.zeros(8 * 2**30, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(held)
