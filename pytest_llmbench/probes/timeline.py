"""
How memory goes through the life of a process: read where a phase or a round ends, never inside one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from pytest_llmbench.probes.allocator import AllocatorReading
from pytest_llmbench.schema.measurement import MemoryPoint

__all__ = ["MemoryTimeline"]


class MemoryTimeline:
    """
    Points in the order of time, and the peaks over all of them or from a moment on.

    Args:
        read: the allocator, with peaks since it was last asked.
        used: bytes in use on each GPU as NVML counts them; None where it does not say.
        clock: seconds.
    """

    def __init__(
        self,
        read: Callable[[], AllocatorReading],
        used: Callable[[], tuple[int, ...] | None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.points: list[MemoryPoint] = []
        self._read = read
        self._used = used
        self._clock = clock
        self._started = clock()
        self._steady_from: int | None = None

    def note(self, phase: str, *, ask_nvml: bool = True) -> None:
        """What *phase* has just done is over."""
        reading = self._read()
        self.points.append(
            MemoryPoint(
                phase=phase,
                seconds=self._clock() - self._started,
                allocated_bytes=reading.allocated_bytes,
                peak_allocated_bytes=reading.peak_allocated_bytes,
                peak_reserved_bytes=reading.peak_reserved_bytes,
                used_bytes=self._used() if ask_nvml else None,
            )
        )

    def fill_in(self, used_bytes: tuple[int, ...] | None) -> None:
        """What NVML says belongs to the last point, too."""
        if self.points:
            self.points[-1] = msgspec.structs.replace(self.points[-1], used_bytes=used_bytes)

    def begin_steady(self) -> None:
        """The points to come are of the rounds."""
        self._steady_from = len(self.points)

    @property
    def peak_allocated_bytes(self) -> tuple[int, ...] | None:
        """Per GPU, over all points; None before the first."""
        return _largest([point.peak_allocated_bytes for point in self.points])

    @property
    def peak_allocated_steady_bytes(self) -> tuple[int, ...] | None:
        """Per GPU, over the rounds; None before the first of them."""
        steady = self.points[self._steady_from :] if self._steady_from is not None else []
        return _largest([point.peak_allocated_bytes for point in steady])

    @property
    def peak_reserved_bytes(self) -> tuple[int, ...] | None:
        """Per GPU, over all points; None before the first."""
        return _largest([point.peak_reserved_bytes for point in self.points])


def _largest(readings: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    return tuple(map(max, zip(*readings, strict=True))) if readings else None
