"""
What a measurement says of one metric: a typical value, its text, and a logarithm per process to judge.
"""

from __future__ import annotations

import math
import statistics
from functools import partial

from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.metrics import METRICS, Value
from pytest_llmbench.schema.units import apart, gib, size

__all__ = [
    "logarithms",
    "move_text",
    "number_text",
    "number_texts",
    "process_value",
    "shown_unit",
    "typical_value",
    "values",
]

_WHOLE_FROM = 9999.5
"""From here on four digits would be written as a power of ten."""


def process_value(process: Process, metric: str) -> Value | None:
    """
    The figure of one process, from which every change is reckoned; None where it is missing.

    Of a speed the median over the rounds if they repeat each other, so that one stall says nothing; else that of
    all rounds together: rounds over samples of other lengths are other work, and their median would be blind to what
    makes long samples slow. A counter that reads 0 saw nothing, and is missing.
    """
    value = process.metrics.get(metric)
    if value is None or isinstance(value, tuple):
        return value
    if value == 0 and metric in METRICS and METRICS[metric].never_zero:
        return None
    return _median_speed(process) or value if metric == "samples_per_second" else value


def values(measurement: Measurement, metric: str) -> list[Value]:
    """One for each process that ended well and measured it."""
    ended_well = (process for process in measurement.processes if process.outcome == "ok")
    return [value for process in ended_well if (value := process_value(process, metric)) is not None]


def typical_value(measurement: Measurement, metric: str) -> Value | None:
    """
    What the processes that ended well measured of it; None if none did.

    Of a speed the geometric mean, from which its change is reckoned; else the median, per device where the metric is.
    """
    found = values(measurement, metric)
    if not found:
        return None
    numbers = [value for value in found if not isinstance(value, tuple)]
    per_device = [value for value in found if isinstance(value, tuple)]
    if not per_device:
        if not all(map(math.isfinite, numbers)):  # a median would sort a NaN to anywhere
            return math.nan
        return _mean_speed(numbers) if _is_speed(metric) and min(numbers) > 0 else statistics.median(numbers)
    if numbers or len({len(value) for value in per_device}) > 1:
        return ()
    return tuple(round(statistics.median(device)) for device in zip(*per_device, strict=True))


def _is_speed(metric: str) -> bool:
    known = METRICS.get(metric)  # a baseline may have one of a package that is not installed
    return known is not None and known.gate == "statistical"


def _mean_speed(numbers: list[float]) -> float:
    return statistics.geometric_mean(numbers) if len(numbers) > 1 else numbers[0]  # which would round it


def logarithms(measurement: Measurement, metric: str) -> tuple[float, ...] | None:
    """
    The natural logarithm of the metric for each process that ended well and measured it.

    None where one of them has none: a value per device, or one that is not finite and above 0.
    """
    found = []
    for value in values(measurement, metric):
        if isinstance(value, tuple) or not (math.isfinite(value) and value > 0):
            return None
        found.append(math.log(value))
    return tuple(found)


def _median_speed(process: Process) -> float | None:
    """The median of the rounds on a scale of logarithms; None if they do not repeat each other, or some took no time."""
    rounds = process.rounds
    if len({(done.samples, done.tokens) for done in rounds}) != 1:
        return None
    if not all(done.seconds > 0 and done.samples > 0 for done in rounds):
        return None
    speeds = [done.samples / done.seconds for done in rounds]
    return _mean_speed([statistics.median_low(speeds), statistics.median_high(speeds)][: 2 - len(speeds) % 2])


def move_text(metric: MetricVerdict) -> str:
    """Both values with unit and denominator, of the worst device: `2.9 MiB -> 3.0 MiB a sample`."""
    unit = METRICS[metric.metric].unit
    show = _sized if unit == "B" else _milliseconds if unit == "s" else _plain
    before, after = apart(_of_device(metric.baseline, metric.device), _of_device(metric.now, metric.device), show)
    _, per, what = metric.metric.rpartition("_per_")
    return f"{before} -> {after}" + (f" a {what.replace('_', '-')}" if per else "")


def _of_device(value: Value | None, device: int | None) -> float:
    chosen = value[device or 0] if isinstance(value, tuple) else value
    assert chosen is not None
    return chosen


def _sized(count_bytes: float, more: int) -> str:
    return size(count_bytes, more + 1 if count_bytes >= 2**20 else more)


def _milliseconds(seconds: float, more: int) -> str:
    return f"{seconds * 1e3:,.{2 + more}f} ms"


def _plain(number: float, more: int) -> str:
    return f"{number:,.{4 + more}g}" if abs(number) < _WHOLE_FROM else f"{number:,.{more}f}"


def number_texts(metric: MetricVerdict) -> tuple[str, str]:
    """Baseline and now; where they differ, so do the texts."""
    return apart(metric.baseline, metric.now, partial(number_text, metric.metric))


def shown_unit(metric: str) -> float:
    """What a number is divided by before it is shown, as by `number_text`: bytes in GiB, seconds in milliseconds."""
    return {"B": 2.0**30, "s": 1e-3}.get(METRICS[metric].unit, 1.0)


def number_text(metric: str, value: Value | None, more: int = 0) -> str:
    """GiB per GPU, milliseconds, or four significant digits; or *more* digits than that."""
    if value is None:
        return ""
    parts = value if isinstance(value, tuple) else (value,)
    unit = METRICS[metric].unit if metric in METRICS else ""  # a result file may know more metrics
    if unit == "B":
        return "+".join(gib(part, more) for part in parts)
    if unit == "s":
        return "+".join(f"{part * 1e3:,.{2 + more}f}" for part in parts)
    return "+".join(_plain(part, more) for part in parts)
