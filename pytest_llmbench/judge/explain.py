"""
Where a difference sits, in words: on the GPU or the host, in which kernels, in which peak of memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import METRICS, Metric
from pytest_llmbench.schema.units import apart, percent, size

__all__ = ["explain"]

_BUSY, _WALL = "device_busy_seconds_per_sample", "samples_per_second"
_NAMED_PARTS = 3
_WORTH_NAMING = 0.1
"""A kernel, or what asked for memory, is named if it has this share of the whole difference, or more."""
_HOST_MOVED = 0.01
"""Beside a difference of the GPU the host's is told from this share of the wall time on."""


def explain(metrics: Iterable[MetricVerdict], then: Measurement, now: Measurement) -> str:
    """One sentence for each of speed, memory and arithmetic that moved, without a final stop; empty if none did."""
    by_name = {verdict.metric: verdict for verdict in metrics}
    sentences = (_speed(by_name, then, now), _memory(by_name, then, now), _arithmetic(by_name))
    return ". ".join(sentence for sentence in sentences if sentence)


def _speed(metrics: Mapping[str, MetricVerdict], then: Measurement, now: Measurement) -> str:
    busy, wall = metrics.get(_BUSY), metrics.get(_WALL)
    counts = "; ".join(_counts(metrics))
    if busy is not None and _moved(busy) and busy.change is not None:
        kernels = _kernels(then, now, busy)
        beside = [part for part in (_host_beside(busy, wall), counts) if part]
        return ", ".join([f"GPU {percent(busy.change)}{kernels}", *beside])
    host, without = "", ""
    if wall is not None and _moved(wall) and wall.change is not None:
        host = f" {percent(-wall.change / (1 + wall.change))}"
        without = _without_counts(metrics, "longer" if wall.change < 0 else "less")
    if not host and not counts:
        return ""
    gpu = "GPU work not measured" if busy is None or busy.now is None else "GPU work unchanged"
    if busy is not None and busy.status == "undecided":
        gpu = "GPU work not seen to change"
    return f"{gpu}, host side{host}: {counts or without}"


def _without_counts(metrics: Mapping[str, MetricVerdict], longer: str) -> str:
    """Sentence on the host's move where no count goes with it."""
    counts = [metrics[metric.name] for metric in _counted() if metric.name in metrics]
    if not counts or any(verdict.change is None and verdict.baseline != verdict.now for verdict in counts):
        return f"not every count is known that could tell why the host took {longer}"
    if any(verdict.baseline != verdict.now for verdict in counts):
        return f"the counts moved within their limits, and the host took {longer}"
    return f"the counts are as before, the same work took the host {longer}"


def _moved(verdict: MetricVerdict) -> bool:
    """Tell whether it moved by more than noise, or so that its whole interval lies on one side."""
    if verdict.status in ("regressed", "improved"):
        return True
    if verdict.status != "undecided" or verdict.interval is None:
        return False
    low, high = verdict.interval
    return not low <= 0 <= high


def _counted() -> list[Metric]:
    return [
        metric
        for metric in METRICS.values()
        if metric.in_words and metric.unit == "1" and metric.explained_by != "flops"
    ]


def _counts(metrics: Mapping[str, MetricVerdict]) -> Iterator[str]:
    for metric in _counted():
        verdict = metrics.get(metric.name)
        if verdict is None or not isinstance(verdict.baseline, int | float) or not isinstance(verdict.now, int | float):
            continue
        if verdict.status in ("regressed", "improved"):
            before, after = apart(verdict.baseline, verdict.now, _count)
            yield f"{before} {metric.words} per sample before, {after} now"


def _count(number: float, more: int) -> str:
    return f"{number:,.{more}f}"


def _host_beside(busy: MetricVerdict, wall: MetricVerdict | None) -> str:
    """Part of the wall time's move that the GPU's does not account for, if that is beyond doubt."""
    if wall is None or wall.status not in ("regressed", "improved"):
        return ""
    numbers = (busy.baseline, busy.now, wall.baseline, wall.now)
    busy_before, busy_now, speed_before, speed_now = (n for n in numbers if isinstance(n, int | float))
    rest = ((1 / speed_now - busy_now) - (1 / speed_before - busy_before)) * speed_before
    same_way = (rest > 0) == (wall.status == "regressed")
    return f"host side {percent(rest)} of the wall time" if same_way and abs(rest) >= _HOST_MOVED else ""


class _Part(NamedTuple):
    """Share of one part of a metric on both sides; None on a side that does not list it."""

    name: str
    before: float | None
    now: float | None
    moved: float
    """At least, where one side does not list it."""

    def text(self, show: Callable[[float, int], str]) -> str:
        def text(side: float | None, more: int) -> str:
            return "not listed" if side is None else show(side, more)

        return f"{self.name} {' -> '.join(apart(self.before, self.now, text))}"


def _parts(
    before: Mapping[str, float], after: Mapping[str, float], total: float, show: Callable[[float, int], str]
) -> str:
    """Parts that make up most of a difference of *total*, longest first; empty if none does."""
    moved = [
        _Part(
            name, before.get(name), after.get(name), after.get(name, _least(after)) - before.get(name, _least(before))
        )
        for name in {**before, **after}
    ]
    named = [part for part in moved if abs(part.moved) >= _WORTH_NAMING * abs(total)]
    named.sort(key=lambda part: -abs(part.moved))
    return "; ".join(part.text(show) for part in named[:_NAMED_PARTS])


def _kernels(then: Measurement, now: Measurement, busy: MetricVerdict) -> str:
    """Kernels that make up most of the GPU's difference."""
    before, after = _milliseconds(then), _milliseconds(now)
    if not before or not after:
        return " (kernels are known of one side only)" if before or after else ""
    assert isinstance(busy.baseline, int | float)
    assert isinstance(busy.now, int | float)
    parts = _parts(before, after, (busy.now - busy.baseline) * 1e3, lambda time, more: f"{time:.{3 + more}g} ms")
    return f": top kernels that changed, per sample: {parts}" if parts else ": spread over many kernels"


def _milliseconds(measurement: Measurement) -> dict[str, float]:
    """Seconds by family, mean over the processes that list any."""
    listing = [process for process in measurement.processes if process.outcome == "ok" and process.kernels]
    found: dict[str, list[float]] = {}
    for process in listing:
        for kernel in process.kernels:
            found.setdefault(kernel.name, []).append(kernel.seconds_per_sample * 1e3)
    return {name: statistics.fmean(values) for name, values in found.items()}


def _least(listed: Mapping[str, float]) -> float:
    """Most that a family that is not listed may have taken: nothing, or as long as the shortest that is."""
    return min((value for name, value in listed.items() if name != "other"), default=0.0) if "other" in listed else 0.0


_PLACES = {
    ("peak_allocated_bytes", "peak_allocated_steady_bytes"): "live tensors of the steps",
    ("peak_allocated_steady_bytes",): "live tensors of the steps",
    ("peak_allocated_bytes",): "live tensors outside the measured steps, as in loading or the first step",
    ("peak_reserved_bytes",): "what torch's allocator keeps beyond live tensors",
    ("peak_footprint_bytes",): "outside torch, as in the CUDA context or a library",
}
"""Pairs of the peaks that moved and the place, the innermost peak first."""
_LIVE = ("peak_allocated_bytes", "peak_allocated_steady_bytes")


def _memory(metrics: Mapping[str, MetricVerdict], then: Measurement, now: Measurement) -> str:
    peaks_known = {name for peaks in _PLACES for name in peaks}
    moved = {name: verdict for name, verdict in metrics.items() if name in peaks_known and _moved(verdict)}
    for peaks, place in _PLACES.items():
        if all(peak in moved for peak in peaks):
            told = ", ".join(f"{name} {_bytes_moved(verdict)}" for name, verdict in moved.items())
            asked = _allocations(then, now, _bytes_between(moved[peaks[0]])) if peaks[0] in _LIVE else ""
            return f"Memory, {place}: {told}{_reached(then, now)}{asked}"
    return ""


def _reached(then: Measurement, now: Measurement) -> str:
    """Phase in which live tensors take most, if both sides know."""
    before, after = _fullest_phase(then), _fullest_phase(now)
    if before is None or after is None:
        return ""
    return f"; most is allocated in {after}" + (", as before" if before == after else f", in {before} before")


def _fullest_phase(measurement: Measurement) -> str | None:
    points = measurement.memory
    return max(points, key=lambda point: max(point.peak_allocated_bytes)).phase if points else None


def _allocations(then: Measurement, now: Measurement, total_bytes: float) -> str:
    """Who asked for what makes up most of the difference of live tensors, if both sides know."""
    before, after = ({share.name: share.bytes for share in side.peak_allocations} for side in (then, now))
    if not before or not after or bool(then.profile) != bool(now.profile):  # before there were profiles, by other names
        return ""
    parts = _parts(before, after, total_bytes, size)
    return f"; alive at the peak of a step: {parts}" if parts else ""


def _bytes_between(verdict: MetricVerdict) -> float:
    before, after = (
        side[verdict.device or 0] if isinstance(side, tuple) else side or 0 for side in (verdict.baseline, verdict.now)
    )
    return after - before


def _bytes_moved(verdict: MetricVerdict) -> str:
    moved = _bytes_between(verdict)
    return f"{'+' if moved > 0 else '-'}{size(abs(moved))}"


def _arithmetic(metrics: Mapping[str, MetricVerdict]) -> str:
    moved = [name for name, verdict in metrics.items() if METRICS[name].better == "same" and verdict.gates]
    told = [name for name in moved if metrics[name].status == "regressed"]
    return f"It does not compute what the baseline did: {', '.join(told)} moved" if told else ""
