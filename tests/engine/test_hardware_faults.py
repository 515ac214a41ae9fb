"""Faults that only a real GPU has: each becomes its outcome, and the GPU is as free afterwards as before."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.host.nvml import NvmlUnavailable, open_nvml
from pytest_llmbench.host.visible import visible_gpus
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload

pytestmark = [pytest.mark.hardware]

MIB = 2**20


def used_bytes() -> int:
    try:
        with open_nvml() as nvml:
            used = nvml.occupancy(visible_gpus(nvml, os.environ)[0]).used_bytes
    except NvmlUnavailable as error:
        pytest.skip(str(error))
    assert used is not None
    return used


def environ() -> dict[str, str]:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1", "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="module", name="executor")
def _executor() -> Iterator[LocalExecutor]:
    used_bytes()  # skips before a server is started for nothing
    announced: list[str] = []
    with LocalExecutor(timeout_seconds=300, announce=announced.append, environ=environ()) as executor:
        yield executor
    assert announced == []


def test_a_case_that_does_not_fit_ends_oom_with_the_peak_it_reached(executor: LocalExecutor) -> None:
    idle = used_bytes()
    # Weights alone take 135 GiB, and gradients as much again.
    case = Case(model="qwen-72b-chat", tuner="full", attention="sdpa", max_length=512)

    measurement = executor.run(Request(case=case, workload=Workload(samples=1)), lambda _: None)

    assert measurement.outcome == "oom"
    assert "Tried to allocate" in (measurement.reason or "")
    assert measurement.processes[0].metrics["peak_reserved_bytes"] > (2**30,)  # type: ignore[operator]
    assert used_bytes() <= idle + 64 * MIB


def test_a_case_killed_while_it_holds_the_gpu_gives_it_back(executor: LocalExecutor) -> None:
    idle = used_bytes()
    held: list[int] = []

    def kill(phase: Phase) -> None:
        if phase.name == "warm-up":
            held.append(used_bytes())
            threading.Timer(0.5, _kill_measuring_process).start()

    case = Case(model="qwen-1_8b-chat", attention="sdpa")
    measurement = executor.run(Request(case=case, workload=Workload(samples=64)), kill)

    assert measurement.outcome == "crashed"
    assert "SIGKILL" in (measurement.reason or "")
    assert measurement.environment is not None
    assert held[0] > idle + 1024 * MIB
    assert used_bytes() <= idle + 64 * MIB


def test_an_assertion_on_the_gpu_costs_its_case_and_no_other(executor: LocalExecutor) -> None:
    idle = used_bytes()

    measurement = executor.run(custom("index_out_of_range"), lambda _: None)

    assert measurement.outcome == "crashed"
    assert "device-side assert" in (measurement.reason or "")
    assert measurement.environment is not None
    assert executor.run(custom("multiplication"), lambda _: None).outcome == "ok"
    assert used_bytes() <= idle + 64 * MIB


def test_a_kernel_without_end_is_a_timeout_and_the_gpu_is_free_again() -> None:
    idle = used_bytes()
    with LocalExecutor(timeout_seconds=60, announce=pytest.fail, environ=environ(), preload=()) as impatient:
        measurement = impatient.run(custom("kernel_without_end"), lambda _: None)

        assert measurement.outcome == "timeout"
        assert "in phase 'warm-up'" in (measurement.reason or "")
        assert impatient.run(custom("multiplication"), lambda _: None).outcome == "ok"
    assert used_bytes() <= idle + 64 * MIB


def custom(function: str) -> Request:
    case = Case.custom(f"faulty_steps:{function}", name=function)
    return Request(case=case, workload=Workload(samples=4))


def _kill_measuring_process() -> None:
    """The process furthest down of those that this one has started; nothing else, whatever is on the GPU."""
    below = psutil.Process().children(recursive=True)
    max(below, key=lambda process: len(process.parents())).kill()
