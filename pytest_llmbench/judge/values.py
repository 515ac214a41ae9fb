"""
What a measurement says of one metric: a typical value to show, and a logarithm per process to judge.
"""

from __future__ import annotations

import math
import statistics

from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.metrics import METRICS, Value

__all__ = ["logarithms", "typical_value", "values"]


def values(measurement: Measurement, metric: str) -> list[Value]:
    """One for each process that ended well and measured it."""
    return [
        process.metrics[metric]
        for process in measurement.processes
        if process.outcome == "ok" and metric in process.metrics
    ]


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
    for process in measurement.processes:
        if process.outcome != "ok" or metric not in process.metrics:
            continue
        value = process.metrics[metric]
        if isinstance(value, tuple) or not (math.isfinite(value) and value > 0):
            return None
        found.append(_median_speed(process) if metric == "samples_per_second" else math.log(value))
    return tuple(found)


def _median_speed(process: Process) -> float:
    """
    The median over the rounds if they repeat each other, so that one stall says nothing; else that of all together.

    Rounds over samples of other lengths are other work: their median would be blind to what makes
    long samples slow.
    """
    rounds = process.rounds
    repeated = len({(done.samples, done.tokens) for done in rounds}) == 1
    if repeated and all(done.seconds > 0 and done.samples > 0 for done in rounds):
        return statistics.median(math.log(done.samples / done.seconds) for done in rounds)
    speed = process.metrics["samples_per_second"]
    assert not isinstance(speed, tuple)
    return math.log(speed)
