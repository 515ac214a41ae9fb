"""
The JSON of pytest-benchmark, so that `pytest-benchmark compare` and what is built on it read our results.

A round is one of ours; its time is given per sample, so that rows with other numbers of samples compare.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from pytest_llmbench.reports.export.values import ok_processes, series
from pytest_llmbench.schema.environment import Environment, version_text
from pytest_llmbench.store.results import Result

__all__ = ["FORMAT", "export", "seconds_per_sample"]

FORMAT = "5.0.0"
"""The version of pytest-benchmark whose file this is; 4 reads it too."""


def export(results: Sequence[Result]) -> str:
    """A file as `--benchmark-json` writes it; rows without a measured round are not in it."""
    environment = next((found for result in results if (found := result.measurement.environment)), None)
    measured = [result for result in results if seconds_per_sample(result)]
    data = {
        "machine_info": _machine(environment),
        "commit_info": _commit(environment),
        "benchmarks": [_benchmark(result) for result in measured],
        "datetime": max((result.measurement.measured_at for result in measured), default=""),
        "version": FORMAT,
    }
    return msgspec.json.format(msgspec.json.encode(data), indent=4).decode() + "\n"


def _benchmark(result: Result) -> dict[str, Any]:
    return {
        "group": result.table,
        "name": result.name,
        "fullname": result.nodeid,
        "params": {"row": result.row},
        "param": result.row,
        "extra_info": {
            "verdict": result.told,
            "outcome": result.measurement.outcome,
            **{one.name: statistics.median(one.values) for one in series(result)},
            "packages": _packages(result.measurement.environment),
        },
        "options": {
            "disable_gc": True,
            "timer": "perf_counter",
            "min_rounds": 1,
            "max_time": 0.0,
            "min_time": 0.0,
            "warmup": True,
        },
        "stats": _stats(seconds_per_sample(result)),
    }


def _commit(environment: Environment | None) -> dict[str, Any]:
    found = environment.repository if environment is not None else None
    known = {"id": "unknown", "dirty": False, "branch": "(unknown)"}
    if found is not None:
        known = {"id": found.commit, "dirty": bool(found.dirty), "branch": found.branch or "(detached head)"}
    return {"time": None, "author_time": None, "error": None, "project": "", **known}


def _packages(environment: Environment | None) -> dict[str, str]:
    if environment is None:
        return {}
    origins = environment.origins or {}
    return {name: version_text(version, origins.get(name)) for name, version in environment.packages.items()}


def seconds_per_sample(result: Result) -> list[float]:
    """One number for each measured round of the row."""
    rounds = [one for process in ok_processes(result) for one in process.rounds]
    return [one.seconds / one.samples for one in rounds if one.samples > 0 and math.isfinite(one.seconds)]


def _stats(values: list[float]) -> dict[str, Any]:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    mean = statistics.fmean(values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    iqr = q3 - q1
    inside = [value for value in values if q1 - 1.5 * iqr <= value <= q3 + 1.5 * iqr]
    far = sum(abs(value - mean) > deviation for value in values)
    return {
        "min": min(values),
        "max": max(values),
        "mean": mean,
        "stddev": deviation,
        "rounds": len(values),
        "median": median,
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": len(values) - len(inside),
        "stddev_outliers": far,
        "outliers": f"{far};{len(values) - len(inside)}",
        "ld15iqr": min(inside, default=min(values)),
        "hd15iqr": max(inside, default=max(values)),
        "ops": 1 / mean if mean else 0,
        "total": sum(values),
        "data": values,
        "iterations": 1,
    }


def _machine(environment: Environment | None) -> dict[str, Any]:
    """What pytest-benchmark warns about if it differs between two files."""
    if environment is None:
        return {}
    return {
        "node": "",
        "processor": "",
        "machine": environment.device,
        "python_compiler": "",
        "python_implementation": "CPython",
        "python_implementation_version": environment.python,
        "python_version": environment.python,
        "python_build": ["", ""],
        "release": "",
        "system": environment.system,
        "cpu": {"brand_raw": environment.cpu, "count": environment.num_cpus},
        "driver": environment.driver,
        "cuda": environment.cuda,
    }
