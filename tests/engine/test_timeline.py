"""Memory through the life of a process: a point where a stretch ends, and peaks over some or all of them."""

from __future__ import annotations

from pytest_llmbench.probes.allocator import AllocatorReading
from pytest_llmbench.probes.timeline import MemoryTimeline
from pytest_llmbench.schema.measurement import MemoryPoint


def reading(allocated: int, peak: int, reserved: int) -> AllocatorReading:
    """On two GPUs, of which the second always has one byte more."""
    return AllocatorReading(
        allocated_bytes=(allocated, allocated + 1),
        peak_allocated_bytes=(peak, peak + 1),
        peak_reserved_bytes=(reserved, reserved + 1),
        reserved_bytes=(reserved, reserved + 1),
        retries=0,
        freed_segments=0,
    )


def timeline(*readings: AllocatorReading) -> MemoryTimeline:
    left, seconds = iter(readings), iter(range(100))
    return MemoryTimeline(lambda: next(left), lambda: (7, 8), clock=lambda: float(next(seconds)))


def test_a_point_says_what_its_stretch_took_and_when_it_was_over() -> None:
    noted = timeline(reading(10, 20, 30))

    noted.note("build")

    assert noted.points == [MemoryPoint("build", 1.0, (10, 11), (20, 21), (30, 31), (7, 8))]


def test_nvml_is_asked_where_it_may_be() -> None:
    noted = timeline(reading(10, 20, 30), reading(10, 20, 30))
    noted.note("rounds", ask_nvml=False)
    noted.note("rounds", ask_nvml=False)
    noted.fill_in((5, 6))

    assert [point.used_bytes for point in noted.points] == [None, (5, 6)]


def test_peaks_are_the_largest_of_any_stretch() -> None:
    noted = timeline(reading(10, 90, 95), reading(10, 20, 95), reading(10, 50, 99))
    for phase in ("build", "warm-up", "rounds"):
        noted.note(phase)

    assert noted.peak_allocated_bytes == (90, 91)
    assert noted.peak_reserved_bytes == (99, 100)


def test_the_steady_peak_is_that_of_the_rounds() -> None:
    noted = timeline(reading(10, 90, 95), reading(10, 40, 95), reading(10, 50, 95))
    noted.note("build")
    noted.begin_steady()
    noted.note("rounds")
    noted.note("rounds")

    assert noted.peak_allocated_steady_bytes == (50, 51)


def test_without_rounds_there_is_no_steady_peak() -> None:
    noted = timeline(reading(10, 90, 95))
    noted.note("build")

    assert noted.peak_allocated_steady_bytes is None
    noted.begin_steady()
    assert noted.peak_allocated_steady_bytes is None
