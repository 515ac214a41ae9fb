"""
Planted slow-downs and allocations: a training made worse by a known amount, to prove the gate.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pytest_llmbench.engine.loop import AnyTraining, Ran, SelfDriven, Watch, run_steps
from pytest_llmbench.schema.case import CaseError
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import Injection

__all__ = ["Injected"]

_CALIBRATION_CYCLES = 100_000_000
_CALIBRATION_ADDITIONS = 1_000_000


class Injected(SelfDriven):
    """
    A training in which every micro-batch costs more, by a fraction of what it costs without.

    Args:
        training: the training to make worse.
        injection: what to plant.
        device: where it runs.
        seconds_per_micro_batch: mean cost without: device-busy seconds for `device`, wall seconds
            for `host`, unused for memory.

    Raises:
        CaseError: an injection that needs a GPU, without one.
        torch.cuda.OutOfMemoryError: what is planted outside torch does not fit.
    """

    def __init__(
        self, training: AnyTraining, injection: Injection, device: torch.device, seconds_per_micro_batch: float
    ) -> None:
        super().__init__(training)
        self._training = training
        self._plant = _planter(injection, device, injection.amount * seconds_per_micro_batch)
        self._planting = _PlantBetween if injection.kind == "memory-idle" else _PlantWithin

    def run(self, steps: Sequence[Sequence[int]], watch: Watch) -> Ran:
        return run_steps(self._training, steps, self._planting(watch, self._plant))


class _Plant(Watch):
    """Tells all to another watch, and holds what is planted."""

    def __init__(self, watch: Watch, plant: Callable[[], Tensor | None]) -> None:
        self._plant = plant
        self._held: Tensor | None = None
        self._watch = watch

    def step_begins(self) -> None:
        self._watch.step_begins()

    def micro_batch_begins(self) -> None:
        self._watch.micro_batch_begins()

    def micro_batch_ended(self, result: StepResult) -> None:
        self._watch.micro_batch_ended(result)

    def gradients_ready(self) -> None:
        self._watch.gradients_ready()

    def step_ended(self) -> None:
        self._watch.step_ended()


class _PlantWithin(_Plant):
    """Plants before each micro-batch, and takes it away after."""

    def micro_batch_begins(self) -> None:
        super().micro_batch_begins()
        self._held = self._plant()

    def micro_batch_ended(self, result: StepResult) -> None:
        self._held = None
        super().micro_batch_ended(result)


class _PlantBetween(_Plant):
    """Plants after each optimizer step, and takes it away before the next."""

    def step_begins(self) -> None:
        self._held = None
        super().step_begins()

    def step_ended(self) -> None:
        self._held = self._plant()
        super().step_ended()


def _planter(injection: Injection, device: torch.device, seconds: float) -> Callable[[], Tensor | None]:
    """What to do; a tensor it returns is held for as long as the kind says."""
    if injection.kind == "memory-outside":
        _allocate_outside(int(injection.amount), device)
        return lambda: None
    if injection.kind in ("memory", "memory-idle"):
        return lambda: torch.empty(int(injection.amount), dtype=torch.uint8, device=device)
    if injection.kind == "host":
        count = int(seconds * _additions_per_second())
        return lambda: _spin(count)
    if device.type != "cuda":
        raise CaseError("a device-side injection needs a GPU; on the CPU inject 'host'")
    cycles = int(seconds * _cycles_per_second())
    return lambda: torch.cuda._sleep(cycles)  # the only way to keep a GPU busy for a given time


def _allocate_outside(count_bytes: int, device: torch.device) -> None:
    """By the CUDA driver and for good, as a library does that has an allocator of its own."""
    if device.type != "cuda":
        raise CaseError("memory outside torch is planted on a GPU; on the CPU inject 'memory'")
    driver, pointer = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64()
    with torch.cuda.device(device):
        error = driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(count_bytes))
    if error:
        raise torch.cuda.OutOfMemoryError(f"the CUDA driver gives no {count_bytes} bytes: error {error}")


def _spin(additions: int) -> None:
    """
    Keep the thread busy, as slow Python would; sleeping would hand the CPU to others.

    In one call, since calls are counted and a loop that looks at the clock would be found by that alone.
    """
    sum(range(additions))


def _additions_per_second() -> float:
    """The median of a few: others may use this CPU meanwhile."""
    found = []
    for _ in range(5):
        started = time.perf_counter()
        _spin(_CALIBRATION_ADDITIONS)
        found.append(_CALIBRATION_ADDITIONS / (time.perf_counter() - started))
    return statistics.median(found)


def _cycles_per_second() -> float:
    torch.cuda._sleep(_CALIBRATION_CYCLES)  # let the clocks rise first
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    torch.cuda._sleep(_CALIBRATION_CYCLES)
    end.record()
    end.synchronize()
    return _CALIBRATION_CYCLES / (start.elapsed_time(end) / 1e3)
