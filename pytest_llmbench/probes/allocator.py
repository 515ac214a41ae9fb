"""
What torch's caching allocator knows: peaks per GPU, and whether it ever had to give memory back.
"""

from __future__ import annotations

import msgspec
import torch

__all__ = ["AllocatorReading", "allocation_failure", "read_allocator", "reset_peaks"]


class AllocatorReading(msgspec.Struct, frozen=True):
    """One entry per GPU where a field is a tuple."""

    allocated_bytes: tuple[int, ...]
    peak_allocated_bytes: tuple[int, ...]
    peak_reserved_bytes: tuple[int, ...]
    reserved_bytes: tuple[int, ...]
    retries: int
    """Times that the allocator emptied its cache because the GPU was full, summed over the GPUs."""
    freed_segments: int
    """Segments given back to the driver so far, summed over the GPUs."""


def read_allocator(num_devices: int) -> AllocatorReading:
    """Peaks are those since the process started or since `reset_peaks`."""
    stats = [torch.cuda.memory_stats(index) for index in range(num_devices)]
    return AllocatorReading(
        allocated_bytes=tuple(entry.get("allocated_bytes.all.current", 0) for entry in stats),
        peak_allocated_bytes=tuple(entry.get("allocated_bytes.all.peak", 0) for entry in stats),
        peak_reserved_bytes=tuple(entry.get("reserved_bytes.all.peak", 0) for entry in stats),
        reserved_bytes=tuple(entry.get("reserved_bytes.all.current", 0) for entry in stats),
        retries=sum(entry.get("num_alloc_retries", 0) for entry in stats),
        freed_segments=sum(entry.get("segment.all.freed", 0) for entry in stats),
    )


def reset_peaks(num_devices: int) -> None:
    """
    Start the peaks anew, so that each stretch of a process has its own.

    Reserved memory never shrinks while nothing is freed, so its peak since the start survives a
    reset as the current value.
    """
    for index in range(num_devices):
        torch.cuda.reset_peak_memory_stats(index)


def allocation_failure(error: BaseException) -> str:
    """The sentence of an out-of-memory error that says how much was asked for and what was free."""
    first, *_ = str(error).split(" See documentation for Memory Management")
    return " ".join(first.split())
