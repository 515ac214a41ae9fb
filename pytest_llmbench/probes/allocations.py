"""
What memory is made up of where a micro-batch and its optimizer step take most: who asked for the tensors alive then.

Taken with torch's profiler, Python's frames included, in a pass of its own. On the CPU, too: it is torch that
asks an allocator for memory, whichever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch._C._profiler import _EventType  # the public events leave out who called whom
from torch.profiler import ProfilerActivity, profile

from pytest_llmbench.probes.recorder import Recorder
from pytest_llmbench.schema.measurement import AllocationShare

__all__ = ["BEFORE", "LISTED", "REST", "Allocation", "PeakRecorder", "alive_at_peak", "origin", "shares"]

LISTED = 12
BEFORE, REST = "before the step", "other"

_AUTOGRAD = "autograd::engine::evaluate_function: "
_OPERATOR = re.compile(r"\w+::\w+(\.\w+)?")
_KEPT_FOLDERS = 3


class Allocation(NamedTuple):
    """Memory that was given, or with negative bytes given back."""

    nanoseconds: int
    pointer: int
    count_bytes: int
    total_bytes: int
    """All that the allocator had given on this device, afterwards."""
    event: Any
    """The profiler's, whose parents are the operators and frames around it."""


class PeakRecorder(Recorder):
    """Records what is asked for and given back, from a micro-batch's beginning to the optimizer step's end."""

    def __init__(self) -> None:
        self._running: profile | None = None
        self._roots: Sequence[Any] = ()

    def begin(self) -> None:
        # Whatever the device: allocators report to the host's side of the profiler.
        self._running = profile(activities=[ProfilerActivity.CPU], profile_memory=True, with_stack=True)
        self._running.start()

    def boundary(self) -> None:
        pass

    def end(self) -> None:
        assert self._running is not None
        profiler, self._running = self._running, None
        profiler.stop()
        self._roots = profiler.profiler.kineto_results.experimental_event_tree()

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.stop()

    def shares(self, device: torch.device) -> tuple[AllocationShare, ...]:
        """What was alive on *device* when it held most; empty if nothing was asked for there."""
        return shares(*alive_at_peak(_allocations(self._roots, device)))


def alive_at_peak(events: Iterable[Allocation]) -> tuple[int, list[Allocation]]:
    """
    The bytes on the device at the first moment at which it held most, and the allocations seen that were alive.

    What was given before the first event is in the bytes alone.
    """
    most, at = 0, -1
    ordered = sorted(events, key=lambda event: event.nanoseconds)
    for index, event in enumerate(ordered):
        if event.total_bytes > most:
            most, at = event.total_bytes, index
    alive: dict[int, Allocation] = {}
    for event in ordered[: at + 1]:
        if event.count_bytes > 0:
            alive[event.pointer] = event
        else:
            alive.pop(event.pointer, None)
    return most, list(alive.values())


def shares(total_bytes: int, alive: Iterable[Allocation]) -> tuple[AllocationShare, ...]:
    """By who asked, most bytes first; then those beyond `LISTED` as `REST`, then what was there `BEFORE`."""
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for allocation in alive:
        name = origin(allocation.event)
        counts[name] = counts.get(name, 0) + 1
        sizes[name] = sizes.get(name, 0) + allocation.count_bytes
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    found = [AllocationShare(name, counts[name], sizes[name]) for name in names[:LISTED]]
    if rest := names[LISTED:]:
        found.append(AllocationShare(REST, sum(counts[name] for name in rest), sum(sizes[name] for name in rest)))
    if (before := total_bytes - sum(sizes.values())) > 0:
        found.append(AllocationShare(BEFORE, None, before))
    return tuple(found)


def origin(event: Any) -> str:
    """
    The outermost operator, and the function of Python or the node of autograd that called it.

    `aten::mul in Qwen2MLP.forward (transformers/models/qwen2/modeling_qwen2.py)`, `aten::mm in MmBackward0`.
    torch's own Python functions are passed over.
    """
    operator = "an allocation"
    outwards = _parents(event)
    for tag, name, fields in outwards:
        if tag == "TorchOp" and name.startswith(_AUTOGRAD):
            return f"{operator} in {name.removeprefix(_AUTOGRAD)}"
        if tag == "TorchOp" and _OPERATOR.fullmatch(name):
            operator = name
        if tag == "PyCall" and not fields.callsite.file_name.startswith(("torch/", "<")):
            return f"{operator} in {_function(fields.callsite, outwards)}"
    return operator


def _function(site: Any, outwards: Iterator[tuple[str, str, Any]]) -> str:
    """With its file; a `forward` with the class of the module that it is called for."""
    owner = ""
    if site.function_name == "forward":
        modules = (fields.module for tag, _, fields in outwards if tag == "PyCall")
        owner = next((f"{module.cls_name}." for module in modules if module is not None), "")
    return f"{owner}{site.function_name} ({_short(site.file_name)})"


def _parents(event: Any) -> Iterator[tuple[str, str, Any]]:
    """Tag, name and fields, from the inside out."""
    while (event := event.parent) is not None:
        tag, fields = event.typed
        yield tag.name, event.name, fields


def _short(file: str) -> str:
    """Within its package; the profiler leaves away only the folders of `sys.path`."""
    parts = PurePath(file).parts
    return "/".join(parts[-_KEPT_FOLDERS:] if PurePath(file).is_absolute() else parts)


def _allocations(roots: Sequence[Any], device: torch.device) -> Iterator[Allocation]:
    open_ = list(roots)
    while open_:
        event = open_.pop()
        open_.extend(event.children)
        if event.tag != _EventType.Allocation:
            continue  # before `typed`, which takes longest
        _, fields = event.typed
        if fields.device == device:
            yield Allocation(event.start_time_ns, fields.ptr, fields.alloc_size, fields.total_allocated or 0, event)
