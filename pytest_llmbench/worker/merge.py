"""
What the ranks of one case gave, as one measurement: pure functions.

Samples of all ranks count, over the time of the slowest. Memory and evidence keep an entry per rank.
Costs per sample are the mean over the ranks, which is the cost of all of them over the samples of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import (
    Evidence,
    KernelShare,
    Measurement,
    MemoryPoint,
    Process,
    Round,
    fullest,
    now,
)
from pytest_llmbench.schema.metrics import METRICS, Metric, Value
from pytest_llmbench.schema.protocol import Request

__all__ = ["COMPUTE", "Failure", "merge", "surroundings"]

COMPUTE = "compute_seconds_per_sample"
"""
In `Process.ran` of a rank: what its own computing took, waiting for the others left out. On the GPU the
kernels that are not of NCCL, on the CPU the process's CPU time in the rounds.
"""

_NOT_SAID = "its metric does not say how ranks come together; give it `over_ranks`"
_LOST_CONTACT = re.compile("closed by peer|reset by peer|broken pipe|gloo|nccl|remote process", re.IGNORECASE)
"""In errors of those that were waiting for a rank that was gone."""


class Failure(NamedTuple):
    """A rank that did not end well."""

    rank: int
    process: Process


def merge(request: Request, answers: Sequence[Measurement | None], failures: Sequence[Failure]) -> Measurement:
    """
    One measurement of all ranks.

    Args:
        request: what they were asked.
        answers: by rank; None of one that gave none.
        failures: in the order in which they were found out; the first that is no consequence of
            another is the reason.
    """
    there = [answer for answer in answers if answer is not None]
    environments = [answer.environment for answer in there if answer.environment is not None]
    if failures:
        process = _failed(answers, failures)
    else:
        process = _together([process for answer in there for process in answer.processes])
        devices = dict.fromkeys(one.device for one in environments)
        if len(devices) > 1:
            process = msgspec.structs.replace(
                process, outcome="invalid", reason=f"the ranks are on different GPUs: {', '.join(devices)}"
            )
    return Measurement(
        case=request.case,
        workload=request.workload,
        environment=surroundings(environments[0], len(answers)) if environments else None,
        processes=(process,),
        measured_at=now(),
    )


def surroundings(of_first: Environment, num_ranks: int) -> Environment:
    """The environment of all ranks: on the CPU they share the one device."""
    if of_first.device == "cpu":
        return of_first
    return msgspec.structs.replace(of_first, num_devices=of_first.num_devices * num_ranks)


def _failed(answers: Sequence[Measurement | None], failures: Sequence[Failure]) -> Process:
    said = {(failure.process.outcome, failure.process.reason) for failure in failures}
    if len(failures) == len(answers) and len(said) == 1:  # all of them the same, and so none in particular
        rank, process = failures[0]
        reason = process.reason
    else:
        rank, process = next((one for one in failures if not _is_consequence(one.process)), failures[0])
        reason = f"rank {rank} of {len(answers)}: {process.reason}"
    # What it noted may be of use, but metrics of one rank are not those of the case.
    return msgspec.structs.replace(
        process,
        reason=reason,
        metrics={},
        missing=process.missing | dict.fromkeys(process.metrics, f"rank {rank} failed"),
        rounds=(),
        kernels=(),
        memory=(),
        peak_allocations=(),
        profile=msgspec.UNSET,
        evidence=Evidence(),
    )


def _is_consequence(process: Process) -> bool:
    return process.outcome == "crashed" and bool(_LOST_CONTACT.search(process.reason or ""))


def _together(processes: Sequence[Process]) -> Process:
    rounds = tuple(map(_round, zip(*(process.rounds for process in processes), strict=True)))
    first = processes[0]
    known = [metric for metric in METRICS.values() if all(metric.name in process.metrics for process in processes)]
    metrics = {
        metric.name: _value(metric, [process.metrics[metric.name] for process in processes], rounds)
        for metric in known
        if metric.over_ranks is not None
    }
    missing = {metric.name: _NOT_SAID for metric in known if metric.over_ranks is None}
    for process in reversed(processes):
        missing |= process.missing
    metrics["straggler_spread"] = _straggler_spread(processes)
    ran = {name: text for name, text in first.ran.items() if name != COMPUTE}
    return Process(
        outcome="ok",
        metrics=metrics,
        missing={name: reason for name, reason in missing.items() if name not in metrics},
        rounds=rounds,
        ran={**ran, "ranks": str(len(processes))},
        evidence=_evidence([process.evidence for process in processes]),
        kernels=_kernels([process.kernels for process in processes]),
        memory=_memory([process.memory for process in processes]),
        peak_allocations=fullest(process.peak_allocations for process in processes),
        profile=first.profile,
        phase_seconds={
            name: max(process.phase_seconds.get(name, 0.0) for process in processes) for name in first.phase_seconds
        },
    )


def _round(one: Sequence[Round]) -> Round:
    """The same round of every rank."""
    return Round(max(r.seconds for r in one), sum(r.samples for r in one), sum(r.tokens for r in one))


def _value(metric: Metric, values: Sequence[Value], rounds: Sequence[Round]) -> Value:
    """The value of all ranks, as the metric says that they come together."""
    if metric.over_ranks == "each":
        return tuple(entry for value in values for entry in (value if isinstance(value, tuple) else (int(value),)))
    if metric.over_ranks == "rounds":
        counts = [one.tokens if metric.name == "tokens_per_second" else one.samples for one in rounds]
        return sum(counts) / sum(one.seconds for one in rounds)
    numbers = [value for value in values if not isinstance(value, tuple)]
    if metric.over_ranks == "largest":
        return max(numbers)
    return numbers[0] if metric.over_ranks == "same" or len(set(numbers)) == 1 else fmean(numbers)


def _straggler_spread(processes: Iterable[Process]) -> float:
    """How much longer the slowest rank computes than the fastest for the same samples, as a fraction."""
    seconds = [float(process.ran[COMPUTE]) for process in processes]
    return max(seconds) / min(seconds) - 1


def _evidence(all_of_them: Sequence[Evidence]) -> Evidence:
    merged: dict[str, Any] = {}
    for field in msgspec.structs.fields(Evidence):
        values = [getattr(one, field.name) for one in all_of_them]
        if None not in values:
            merged[field.name] = sum(values, ()) if isinstance(values[0], tuple) else sum(values)
    return Evidence(**merged)


def _memory(all_of_them: Sequence[Sequence[MemoryPoint]]) -> tuple[MemoryPoint, ...]:
    """Points of the same phases with the bytes of all ranks; when the last of them had come so far."""
    if len({tuple(point.phase for point in points) for points in all_of_them}) > 1:
        return ()
    return tuple(map(_point, zip(*all_of_them, strict=True)))


def _point(points: Sequence[MemoryPoint]) -> MemoryPoint:
    used = [point.used_bytes for point in points if point.used_bytes is not None]
    return MemoryPoint(
        phase=points[0].phase,
        seconds=max(point.seconds for point in points),
        allocated_bytes=sum((point.allocated_bytes for point in points), ()),
        peak_allocated_bytes=sum((point.peak_allocated_bytes for point in points), ()),
        peak_reserved_bytes=sum((point.peak_reserved_bytes for point in points), ()),
        used_bytes=sum(used, ()) if len(used) == len(points) else None,
    )


def _kernels(all_of_them: Sequence[Sequence[KernelShare]]) -> tuple[KernelShare, ...]:
    """The mean of each family over the ranks; longest first, but `other` at the end."""
    count = len(all_of_them)
    launches: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for share in (share for one in all_of_them for share in one):
        launches[share.name] = launches.get(share.name, 0.0) + share.launches_per_sample / count
        seconds[share.name] = seconds.get(share.name, 0.0) + share.seconds_per_sample / count
    ordered = sorted(seconds, key=lambda name: (name == "other", -seconds[name]))
    return tuple(KernelShare(name, launches[name], seconds[name]) for name in ordered)
