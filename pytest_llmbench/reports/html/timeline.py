"""How the memory of a process went through its phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pytest_llmbench.units import gib

__all__ = ["Phase", "Point", "Timeline", "timeline"]

Point = tuple[float, float, float]
"""Seconds since the first phase began; allocated and reserved bytes of all GPUs together."""


class Phase(msgspec.Struct, frozen=True):
    """A phase as a stretch of the time axis, in percent."""

    name: str
    start: float
    width: float


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Two lines in a box of 100 by 100, its top at `peak`."""

    reserved: str
    """Points of an SVG polygon."""
    allocated: str
    phases: tuple[Phase, ...]
    peak: str
    """GiB."""
    told: str


def timeline(points: Sequence[Point], phase_seconds: Mapping[str, float]) -> Timeline | None:
    """None below two points."""
    end = max(sum(phase_seconds.values()), points[-1][0] if points else 0.0)
    top = max((max(allocated, reserved) for _, allocated, reserved in points), default=0.0)
    if len(points) < 2 or end <= 0 or top <= 0:
        return None
    peak_allocated = max(allocated for _, allocated, _ in points)
    return Timeline(
        reserved=_area([(seconds / end, reserved / top) for seconds, _, reserved in points]),
        allocated=_area([(seconds / end, allocated / top) for seconds, allocated, _ in points]),
        phases=_phases(phase_seconds, end),
        peak=gib(top),
        told=f"peak {gib(peak_allocated)} GiB allocated, {gib(max(point[2] for point in points))} GiB reserved",
    )


def _area(points: Sequence[tuple[float, float]]) -> str:
    """A step for each point: memory is what it is until it changes."""
    corners = [(points[0][0], 0.0)]
    level = 0.0
    for x, y in points:
        corners += [(x, level), (x, y)]
        level = y
    corners += [(1.0, level), (1.0, 0.0)]
    return " ".join(f"{x * 100:.2f},{100 - y * 100:.2f}" for x, y in corners)


def _phases(phase_seconds: Mapping[str, float], end: float) -> tuple[Phase, ...]:
    found, start = [], 0.0
    for name, spent in phase_seconds.items():
        found.append(Phase(name, round(start / end * 100, 2), round(spent / end * 100, 2)))
        start += spent
    return tuple(found)
