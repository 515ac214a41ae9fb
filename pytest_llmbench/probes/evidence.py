"""Footprint and evidence of a measurement, as pure functions of what NVML said before and after."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from pytest_llmbench.host.nvml import GpuReading, Occupancy
from pytest_llmbench.schema.measurement import Evidence

__all__ = [
    "NVML_FIELDS",
    "Footprint",
    "evidence",
    "foreign_processes",
    "parents",
    "peak_footprint",
    "process_memory",
    "process_tree",
]

_AS_READ = ("sm_clock_mhz", "memory_clock_mhz", "power_watts", "temperature_celsius")
_SECONDS = {
    "power_cap_seconds": ("power_cap_ns",),
    "thermal_slowdown_seconds": ("sw_thermal_ns",),
    "hardware_slowdown_seconds": ("hw_thermal_ns", "hw_power_brake_ns"),
}

NVML_FIELDS = ("idle_used_bytes", "driver_reserved_bytes", "foreign_processes", *_AS_READ, *_SECONDS)
"""The fields of `Evidence` that `evidence` fills in: without NVML they all lack for one reason."""

Unknown = tuple[None, str]
"""No value, and the reason."""


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Memory that one GPU must have free for this process: what torch holds, and all that it does not know of."""

    peak_bytes: int | None = None
    source: Literal["process", "device"] | None = None
    """`process` is NVML's figure for our process, `device` what the card's rose by since it was idle."""
    missing: str | None = None
    """Why `peak_bytes` is None."""


def parents() -> dict[int, int]:
    """
    PID of each process here, zombies included, to that of its parent.

    Read without psutil, which a measuring environment of `llmbench ab` may lack: only what `stacks.bundle`
    brings is in each. The kernel's own list of children is not compiled into every kernel.
    """
    found: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            # The command's name comes first, in parentheses, and can contain anything.
            found[int(stat.parent.name)] = int(stat.read_bytes().rpartition(b")")[2].split()[1])
    return found


def process_tree(root: int) -> frozenset[int]:
    """PIDs of a process and of its living descendants, as numbered in this PID namespace."""
    above = parents()
    tree = {root}
    while grown := {pid for pid, parent in above.items() if parent in tree} - tree:
        tree |= grown
    return frozenset(tree)


def process_memory(busy: Occupancy, own_pids: Set[int], *, reserved_bytes: int) -> tuple[int, None] | Unknown:
    """
    Bytes that NVML books to our processes on one GPU, and None; or None and why that is not known.

    Args:
        busy: read while the GPU was in use by us.
        own_pids: see `process_tree`.
        reserved_bytes: what torch holds there at that moment. A figure below it is somebody else's.
    """
    listed = busy.process_bytes
    if listed is None:
        return None, busy.missing["process_bytes"]
    if own_pids.isdisjoint(listed):
        return None, _not_listed(listed)
    ours = [used for pid, used in listed.items() if pid in own_pids]
    known = [used for used in ours if used is not None]
    if len(known) < len(ours):
        return None, "NVML does not say here how much memory a process uses"
    if sum(known) < reserved_bytes:
        return None, (
            f"NVML books {sum(known)} bytes to our PID and torch alone holds {reserved_bytes}: "
            "the PID means another process to NVML, as in a container"
        )
    return sum(known), None


def foreign_processes(idle: Occupancy, busy: Occupancy, own_pids: Set[int]) -> tuple[int, None] | Unknown:
    """
    Processes other than ours on one GPU, and None; or None and why that is not known. The larger of two counts.

    Where NVML lists PIDs of which none is ours (those of the host, seen from a container), one of
    them must still be this process, so all but one are foreign.

    Args:
        idle: read before this process used the GPU.
        busy: read while it did: only then does an empty list show that NVML hides processes.
        own_pids: see `process_tree`.
    """
    before, after = idle.process_bytes, busy.process_bytes
    if before is None or after is None:
        return None, (idle.missing | busy.missing)["process_bytes"]
    if not after:
        return None, _not_listed(after)
    if own_pids.isdisjoint(after):
        return max(len(before), len(after) - 1), None
    return max(len(before.keys() - own_pids), len(after.keys() - own_pids)), None


def peak_footprint(idle: Occupancy, busy: Occupancy, own_pids: Set[int], *, reserved_bytes: int) -> Footprint:
    """
    The footprint on one GPU at the moment of *busy*, by process where NVML can be trusted with it, else by device.

    It is the peak if torch has given no segment back and retried no allocation since *idle*, and a
    lower bound otherwise; the allocator knows which. By device it is some 10 MB larger than by process:
    what the driver takes for the first process on the card. Arguments as in `foreign_processes` and `process_memory`.
    """
    process, why_not = process_memory(busy, own_pids, reserved_bytes=reserved_bytes)
    if process is not None:
        return Footprint(peak_bytes=process, source="process")
    foreign, _ = foreign_processes(idle, busy, own_pids)
    if idle.used_bytes is None or busy.used_bytes is None:
        return Footprint(missing=(idle.missing | busy.missing)["used_bytes"])
    if (idle.driver_reserved_bytes is None) != (busy.driver_reserved_bytes is None):
        return Footprint(missing="NVML counted the driver's memory as used in one of two readings")
    if foreign:
        return Footprint(
            missing=f"other processes ({foreign}) are on the GPU, and NVML does not give ours apart: {why_not}"
        )
    rise = busy.used_bytes - idle.used_bytes
    if rise < reserved_bytes:
        return Footprint(missing=f"the GPU's used memory rose by {rise} bytes and torch alone holds {reserved_bytes}")
    return Footprint(peak_bytes=rise, source="device")


def evidence(
    idle: Sequence[Occupancy],
    busy: Sequence[Occupancy],
    before: Sequence[GpuReading],
    after: Sequence[GpuReading],
    own_pids: Set[int],
) -> tuple[Evidence, dict[str, str]]:
    """
    NVML's part of the evidence, and the reasons for the fields that it leaves None.

    Every sequence has one entry per GPU, in the order of the devices. A field that one GPU does not
    give is None for all.

    Args:
        idle: read before this process used the GPUs.
        busy: read after the measured rounds, with their memory still held.
        before: read just before the measured rounds.
        after: read just after them.
        own_pids: see `process_tree`.
    """
    columns: dict[str, list[tuple[Any, str | None]]] = {
        "idle_used_bytes": [_used_without_driver(one) for one in idle],
        "driver_reserved_bytes": [_field(one, "driver_reserved_bytes") for one in idle],
        "foreign_processes": [foreign_processes(*pair, own_pids) for pair in zip(idle, busy, strict=True)],
    }
    for name in _AS_READ:
        columns[name] = [_field(one, name) for one in after]
    for name, counters in _SECONDS.items():
        columns[name] = [_seconds_between(*pair, counters) for pair in zip(before, after, strict=True)]
    fields: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, column in columns.items():
        reasons = [f"device {device}: {reason}" for device, (_, reason) in enumerate(column) if reason is not None]
        if reasons:
            missing[name] = "; ".join(reasons)
        else:
            fields[name] = tuple(value for value, _ in column)
    return Evidence(**fields), missing


def _field(reading: Occupancy | GpuReading, name: str) -> tuple[Any, str | None]:
    return getattr(reading, name), reading.missing.get(name)


def _used_without_driver(occupancy: Occupancy) -> tuple[int | None, str | None]:
    reason = occupancy.missing.get("used_bytes") or occupancy.missing.get("driver_reserved_bytes")
    return (None, reason) if reason else (occupancy.used_bytes, None)


def _seconds_between(before: GpuReading, after: GpuReading, counters: Sequence[str]) -> tuple[float, None] | Unknown:
    reasons = after.missing | before.missing
    nanoseconds = 0
    for counter in counters:
        if counter in reasons:
            return None, reasons[counter]
        advance = getattr(after, counter) - getattr(before, counter)
        if advance < 0:
            return None, f"{counter} went backwards by {-advance}: the driver was loaded anew meanwhile"
        nanoseconds += advance
    return nanoseconds / 1e9, None


def _not_listed(listed: dict[int, int | None]) -> str:
    if listed:
        pids = ", ".join(str(pid) for pid in sorted(listed))
        return f"NVML lists PIDs of another namespace ({pids}), none of them ours, as in a container"
    return "NVML lists no process although this one uses the GPU, as in a container that hides them"
