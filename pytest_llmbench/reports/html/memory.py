"""How the memory of the fullest GPU goes through the phases of a process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from pytest_llmbench.schema.measurement import AllocationShare, Measurement, MemoryPoint
from pytest_llmbench.schema.metrics import MIB
from pytest_llmbench.schema.units import apart, gib

__all__ = ["AllocationLine", "Allocations", "Memory", "PhasePeak", "Stretch", "allocations", "memory"]


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """From one point to the next, in percent of the time and of the highest peak."""

    start: float
    width: float
    reserved: float
    allocated: float
    kept: float
    """What is still allocated at its end."""
    colour: int
    """The number of its phase."""
    told: str


class PhasePeak(msgspec.Struct, frozen=True, kw_only=True):
    """The peaks of one phase, as GiB; empty on a side that does not know it."""

    phase: str
    allocated: str
    reserved: str
    used: str
    """At its end, by NVML."""
    allocated_before: str
    reserved_before: str


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The course of a process, and the peaks of its phases beside those of the baseline."""

    stretches: tuple[Stretch, ...]
    phases: tuple[PhasePeak, ...]
    highest: str
    """GiB that are the full height."""
    gpu: str
    """Which one of several; empty for one."""
    compared: bool


def memory(before: Measurement | None, now: Measurement) -> Memory | None:
    """The last process of each side that noted its memory; None where this side has none."""
    after, old = now.memory, before.memory if before else ()
    highest = max((max(point.peak_reserved_bytes) for point in after), default=0)
    if highest <= 0 or after[-1].seconds <= 0:
        return None
    num_gpus = len(after[0].peak_reserved_bytes)
    gpu = max(range(num_gpus), key=lambda index: max(point.peak_reserved_bytes[index] for point in after))
    names = list(dict.fromkeys(point.phase for point in after))
    begins = (0.0, *(point.seconds for point in after[:-1]))
    percent = _Percent(seconds=after[-1].seconds, bytes=highest)
    return Memory(
        stretches=tuple(
            _stretch(point, gpu, begin, percent, names.index(point.phase))
            for begin, point in zip(begins, after, strict=True)
        ),
        phases=tuple(_peaks(name, after, old, gpu) for name in names),
        highest=gib(highest),
        gpu=f"index {gpu}, the fullest of {num_gpus} GPUs" if num_gpus > 1 else "",
        compared=bool(old),
    )


class AllocationLine(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked for memory that is alive at the peak of a step; sizes as MiB, empty on a side that does not list it."""

    name: str
    count: str
    now: str
    before: str


class Allocations(msgspec.Struct, frozen=True):
    """Most first; `compared` where the baseline has them too."""

    lines: tuple[AllocationLine, ...]
    compared: bool


def allocations(before: Measurement | None, now: Measurement) -> Allocations | None:
    """
    Those of the last process of each side that listed any; None where this side has none.

    What takes less than a thousandth of the largest is left out.
    """
    after, old = ({share.name: share for share in side.peak_allocations} if side else {} for side in (now, before))
    if not after:
        return None
    sizes = {name: max(side[name].bytes for side in (after, old) if name in side) for name in {**after, **old}}
    least = max(sizes.values()) / 1000
    names = sorted((name for name in sizes if sizes[name] >= least), key=lambda name: -sizes[name])
    return Allocations(
        tuple(_allocation(name, old.get(name), after.get(name)) for name in names),
        bool(old),
    )


def _allocation(name: str, old: AllocationShare | None, new: AllocationShare | None) -> AllocationLine:
    before, now = apart(old, new, _mebibytes)
    return AllocationLine(name=name, count=str(new.count or "") if new else "", now=now, before=before)


def _mebibytes(share: AllocationShare | None, more: int) -> str:
    return "" if share is None else f"{share.bytes / MIB:,.{1 + more}f}"


class _Percent(NamedTuple):
    """What is full width, and full height."""

    seconds: float
    bytes: int

    def of_time(self, seconds: float) -> float:
        return round(seconds / self.seconds * 100, 2)

    def of_memory(self, count_bytes: int) -> float:
        return round(count_bytes / self.bytes * 100, 2)


def _stretch(point: MemoryPoint, gpu: int, begin: float, percent: _Percent, colour: int) -> Stretch:
    allocated, reserved = point.peak_allocated_bytes[gpu], point.peak_reserved_bytes[gpu]
    kept = point.allocated_bytes[gpu]
    return Stretch(
        start=percent.of_time(begin),
        width=percent.of_time(point.seconds - begin),
        reserved=percent.of_memory(reserved),
        allocated=percent.of_memory(allocated),
        kept=percent.of_memory(kept),
        colour=colour,
        told=f"{point.phase}, to {point.seconds:.2f} s: {gib(allocated)} GiB allocated at most, "
        f"{gib(reserved)} reserved, {gib(kept)} kept",
    )


def _peaks(phase: str, after: Sequence[MemoryPoint], old: Sequence[MemoryPoint], gpu: int) -> PhasePeak:
    now = [point for point in after if point.phase == phase]
    then = [point for point in old if point.phase == phase and gpu < len(point.peak_reserved_bytes)]
    used = next((point.used_bytes for point in reversed(now) if point.used_bytes), None)
    allocated_now = max(point.peak_allocated_bytes[gpu] for point in now)
    allocated_then = max((point.peak_allocated_bytes[gpu] for point in then), default=None)
    reserved_now = max(point.peak_reserved_bytes[gpu] for point in now)
    reserved_then = max((point.peak_reserved_bytes[gpu] for point in then), default=None)
    allocated = apart(allocated_then, allocated_now, _gib)
    reserved = apart(reserved_then, reserved_now, _gib)
    return PhasePeak(
        phase=phase,
        allocated=allocated[1],
        reserved=reserved[1],
        used="" if used is None else gib(used[gpu]),
        allocated_before=allocated[0],
        reserved_before=reserved[0],
    )


def _gib(count_bytes: int | None, more: int) -> str:
    return "" if count_bytes is None else gib(count_bytes, more)
