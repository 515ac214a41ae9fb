"""
What a stretch of training makes the GPU and the dispatcher do: busy time, kernels, waits, operators.

Taken with torch's profiler in passes of their own, never while wall time is measured.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["DeviceActivity", "Kernel", "Split", "count_operators", "record_device_activity", "union_seconds"]

_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cuStreamSynchronize", "cudaMemcpy")


_OPERATOR = re.compile(r"\w+::\w+(\.\w+)?")


class Kernel(msgspec.Struct, frozen=True):
    """One kernel name with how often and how long it ran."""

    name: str
    launches: int
    seconds: float


class DeviceActivity(msgspec.Struct, frozen=True):
    """What the GPUs did in one stretch."""

    busy_seconds: float
    """Time in which at least one kernel, copy or set ran, summed over the GPUs."""
    kernels: int
    synchronisations: int
    """Calls in which the host waits for the GPU; the ones of the measurement itself are left out."""
    by_kernel: tuple[Kernel, ...]
    """Longest first."""


class Split(msgspec.Struct, frozen=True):
    """A pass in two parts, since they recur at different rates: micro-batches, then one optimizer step."""

    micro_batches: DeviceActivity
    optimizer_step: DeviceActivity


def record_device_activity(
    micro_batches: Callable[[], object], optimizer_step: Callable[[], object], synchronise: Callable[[], None]
) -> Split:
    """
    Run both parts under the profiler's CUDA activity and split what it saw between them.

    Raises:
        RuntimeError: the profiler recorded no GPU work (no CUPTI, or not allowed to use it).
    """
    synchronise()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        micro_batches()
        micro_host_end = time.time_ns()
        synchronise()
        boundary = time.time_ns()
        optimizer_step()
        step_host_end = time.time_ns()
        synchronise()
    events = list(_events(profiler))
    device_events = [event for event in events if _on_device(event)]
    if not device_events:
        raise RuntimeError("the profiler recorded no GPU work; is CUPTI there and may this user profile?")
    waits = [event.start_ns() for event in events if not _on_device(event) and event.name() in _WAITS]
    return Split(
        micro_batches=_summarise(
            [event for event in device_events if event.start_ns() < boundary],
            sum(start < micro_host_end for start in waits),
        ),
        optimizer_step=_summarise(
            [event for event in device_events if event.start_ns() >= boundary],
            sum(boundary <= start < step_host_end for start in waits),
        ),
    )


def count_operators(
    micro_batches: Callable[[], object], optimizer_step: Callable[[], object]
) -> tuple[Counter[str], Counter[str]]:
    """
    Operators by name, nested ones included, of the micro-batches and of the optimizer step.

    Those that libraries register are among them (`flash_attn::...`), autograd's nodes are not.
    """
    return _operators(micro_batches), _operators(optimizer_step)


def _operators(run: Callable[[], object]) -> Counter[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    return Counter(event.name() for event in _events(profiler) if _OPERATOR.fullmatch(event.name()))


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
        busy_seconds=sum(union_seconds(intervals) for intervals in devices.values()),
        kernels=sum(count for name, count in launches.items() if not name.startswith(("Memcpy", "Memset"))),
        synchronisations=synchronisations,
        by_kernel=tuple(Kernel(name, launches[name], total / 1e9) for name, total in nanoseconds.most_common()),
    )


def _events(profiler: profile) -> Iterable[Any]:
    # The public event list builds a tree of Python objects, which takes many seconds for the
    # hundred thousand events of one training step; the raw ones carry all that is read here.
    return profiler.profiler.kineto_results.events()


def _on_device(event: Any) -> bool:
    if event.device_type() != torch.autograd.DeviceType.CUDA:
        return False
    # Ranges a library marks with record_function come back as GPU events too.
    marked = getattr(event, "is_user_annotation", None)
    return not (marked is not None and marked())
