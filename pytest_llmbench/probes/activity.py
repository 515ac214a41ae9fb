"""
What a stretch of training makes the GPU and the dispatcher do: busy time, kernels, waits, operators.

Taken with torch's profiler in passes of their own, never while wall time is measured.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import torch
from torch.profiler import ProfilerActivity, profile

from pytest_llmbench.probes.recorder import Recorder

__all__ = ["DeviceActivity", "DeviceRecorder", "Kernel", "OperatorRecorder", "Split", "union_seconds"]

_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cuStreamSynchronize", "cudaMemcpy")

_OPERATOR = re.compile(r"\w+::\w+(\.\w+)?")


class Kernel(msgspec.Struct, frozen=True):
    """One kernel name with how often and how long it ran."""

    name: str
    launches: int
    seconds: float


class DeviceActivity(msgspec.Struct, frozen=True):
    """What the GPUs did in one stretch."""

    busy_seconds_by_device: Mapping[int, float]
    """Time in which at least one kernel, copy or set ran, by the GPU's CUDA index; one that did nothing is left out."""
    kernels: int
    synchronisations: int
    """Calls in which the host waits for the GPU; the ones of the measurement itself are left out."""
    by_kernel: tuple[Kernel, ...]
    """Longest first."""

    @property
    def busy_seconds(self) -> float:
        """
        Summed over the GPUs.

        Of layers split over GPUs one works at a time, so that the sum, too, compares with the wall time.
        """
        return sum(self.busy_seconds_by_device.values())


class Split(msgspec.Struct, frozen=True):
    """A pass in two parts, since they recur at different rates: micro-batches, then one optimizer step."""

    micro_batches: DeviceActivity
    optimizer_step: DeviceActivity


class _Profiled(Recorder):
    """Runs torch's profiler."""

    def __init__(self) -> None:
        self._running: profile | None = None

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._stop()

    def _start(self, activity: ProfilerActivity) -> None:
        profiler = profile(activities=[activity])
        profiler.start()
        self._running = profiler

    def _stop(self) -> list[Any]:
        assert self._running is not None
        profiler, self._running = self._running, None
        profiler.stop()
        # The public event list builds a tree of Python objects, which takes many seconds for the
        # hundred thousand events of one training step; the raw ones carry all that is read here.
        return list(profiler.profiler.kineto_results.events())


class DeviceRecorder(_Profiled):
    """Records the profiler's CUDA activity."""

    def __init__(self, synchronise: Callable[[], None]) -> None:
        super().__init__()
        self._synchronise = synchronise
        self._micro_host_end = self._boundary = self._step_host_end = 0
        self._events: list[Any] = []

    def begin(self) -> None:
        self._synchronise()
        self._start(ProfilerActivity.CUDA)

    def boundary(self) -> None:
        self._micro_host_end = time.time_ns()
        self._synchronise()
        self._boundary = time.time_ns()

    def end(self) -> None:
        self._step_host_end = time.time_ns()
        self._synchronise()
        self._events = self._stop()

    def split(self) -> Split:
        """
        What was seen, divided at the boundary.

        Raises:
            RuntimeError: the profiler recorded no GPU work (no CUPTI, or not allowed to use it).
        """
        device_events: list[Any] = []
        host_events: list[Any] = []
        for event in self._events:  # each is asked once: of a step there are a hundred thousand
            (device_events if _on_device(event) else host_events).append(event)
        if not device_events:
            raise RuntimeError("the profiler recorded no GPU work; is CUPTI there and may this user profile?")
        waits = [event.start_ns() for event in host_events if event.name() in _WAITS]
        return Split(
            micro_batches=_summarise(
                [event for event in device_events if event.start_ns() < self._boundary],
                sum(start < self._micro_host_end for start in waits),
            ),
            optimizer_step=_summarise(
                [event for event in device_events if event.start_ns() >= self._boundary],
                sum(self._boundary <= start < self._step_host_end for start in waits),
            ),
        )


class OperatorRecorder(_Profiled):
    """
    Counts operators by name, nested ones included, of the micro-batches and of the optimizer step.

    Those that libraries register are among them (`flash_attn::...`), autograd's nodes are not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.micro_batches: Counter[str] = Counter()
        self.optimizer_step: Counter[str] = Counter()

    def begin(self) -> None:
        self._start(ProfilerActivity.CPU)

    def boundary(self) -> None:
        self.micro_batches = _operators(self._stop())
        self._start(ProfilerActivity.CPU)

    def end(self) -> None:
        self.optimizer_step = _operators(self._stop())


def _operators(events: Iterable[Any]) -> Counter[str]:
    by_name = Counter(event.name() for event in events)
    return Counter({name: count for name, count in by_name.items() if _OPERATOR.fullmatch(name)})


def union_seconds(intervals: Iterable[tuple[int, int]]) -> float:
    """Seconds covered by at least one of the (start, end) intervals in nanoseconds."""
    covered = 0
    end_so_far = -1
    for start, end in sorted(intervals):
        covered += max(0, end - max(start, end_so_far))
        end_so_far = max(end_so_far, end)
    return covered / 1e9


def _summarise(events: list[Any], synchronisations: int) -> DeviceActivity:
    devices: dict[int, list[tuple[int, int]]] = {}
    launches: Counter[str] = Counter()
    nanoseconds: Counter[str] = Counter()
    for event in events:
        start, duration = event.start_ns(), event.duration_ns()
        devices.setdefault(event.device_index(), []).append((start, start + duration))
        launches[event.name()] += 1
        nanoseconds[event.name()] += duration
    return DeviceActivity(
        busy_seconds_by_device={index: union_seconds(intervals) for index, intervals in devices.items()},
        kernels=sum(count for name, count in launches.items() if not name.startswith(("Memcpy", "Memset"))),
        synchronisations=synchronisations,
        by_kernel=tuple(Kernel(name, launches[name], total / 1e9) for name, total in nanoseconds.most_common()),
    )


def _on_device(event: Any) -> bool:
    if event.device_type() != torch.autograd.DeviceType.CUDA:
        return False
    # Ranges a library marks with record_function come back as GPU events too.
    marked = getattr(event, "is_user_annotation", None)
    return not (marked is not None and marked())
