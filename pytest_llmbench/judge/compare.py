"""
The rule: one measurement held against a stored one, by direction and tolerance of each metric.

Pure. It looks at medians over processes only; how much they scatter is not yet part of the rule.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from pytest_llmbench.judge.comparable import differences, environment_changes
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.measurement import Measurement
from pytest_llmbench.metrics import METRICS, Metric, Tolerance, Value
from pytest_llmbench.workload import WORKLOAD_VERSION

__all__ = ["HOST_BOUND_BELOW", "Reference", "judge", "typical_value"]

HOST_BOUND_BELOW = 0.9
"""With the GPU busy for less than this share of the wall time, a row measures Python and launches."""

_NONE: Mapping[str, Tolerance] = {}
_OF_ROW: tuple[Status, ...] = ("unchanged", "improved", "inconclusive", "regressed")
"""A row has the last of these that one of its metrics has."""
_OF_DEVICES: tuple[Status, ...] = ("improved", "unchanged", "inconclusive", "regressed")
"""A metric has the last of these that one of its devices has: it improved if it did everywhere."""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement is held against."""

    measurement: Measurement
    tolerances: Mapping[str, Tolerance] = _NONE
    """The row's own, by metric."""
    workload_version: int = WORKLOAD_VERSION
    """`workload.WORKLOAD_VERSION` when it was measured."""


def judge(now: Measurement, against: Reference | None, overrides: Mapping[str, Tolerance] = _NONE) -> RowVerdict:
    """
    Hold *now* against a reference; None stands for a row that has none.

    Args:
        overrides: tolerances of the command line or the ini file, which beat the row's own, which
            beat those of `metrics.METRICS`.
    """
    before = against.measurement.environment if against else None
    changes, unchanged = environment_changes(before, now.environment)
    if now.outcome in ("crashed", "timeout", "diverged"):
        row = RowVerdict(status="regressed", reason=_told(now))
    elif now.outcome in ("invalid", "unavailable"):
        row = RowVerdict(status="inconclusive", reason=_told(now))
    elif against is None:
        row = RowVerdict(status="no baseline", reason="no baseline is stored for this row")
    else:
        row = _compared(now, against, overrides, same_environment=not changes)
    return msgspec.structs.replace(row, package_changes=changes, unchanged_packages=unchanged)


def _compared(
    now: Measurement, against: Reference, overrides: Mapping[str, Tolerance], *, same_environment: bool
) -> RowVerdict:
    differing = differences(against.measurement, now, against.workload_version)
    if differing:
        told = "; ".join(f"{name} {old} -> {new}" for name, (old, new) in differing.items())
        return RowVerdict(status="not comparable", differing=tuple(differing), reason=f"not comparable: {told}")
    match (against.measurement.outcome, now.outcome):
        case ("ok", "ok"):
            metrics = tuple(_metric_verdicts(now, against, overrides, same_environment=same_environment))
            return _summary(_without_false_improvements(metrics))
        case ("ok", "oom"):
            return RowVerdict(status="regressed", reason=f"the baseline fits into memory, now {_told(now)}")
        case ("oom", "ok"):
            return RowVerdict(status="improved", reason="fits into memory, the baseline does not")
        case ("oom", "oom"):
            return RowVerdict(status="unchanged", reason="out of memory, as the baseline")
        case _:
            return RowVerdict(status="inconclusive", reason=f"nothing to hold it against: {_told(against.measurement)}")


def _told(measurement: Measurement) -> str:
    outcome = "out of memory" if measurement.outcome == "oom" else measurement.outcome
    return f"{outcome}: {measurement.reason}" if measurement.reason else outcome


def typical_value(measurement: Measurement, metric: str) -> Value | None:
    """Median over the processes that ended well, per device where the metric is; None if none measured it."""
    values = _values(measurement, metric)
    if not values:
        return None
    numbers = [value for value in values if not isinstance(value, tuple)]
    per_device = [value for value in values if isinstance(value, tuple)]
    if not per_device:
        # A median would sort a NaN to anywhere.
        return statistics.median(numbers) if all(map(math.isfinite, numbers)) else math.nan
    if numbers or len({len(value) for value in per_device}) > 1:
        return ()
    return tuple(round(statistics.median(device)) for device in zip(*per_device, strict=True))


def _values(measurement: Measurement, metric: str) -> list[Value]:
    return [
        process.metrics[metric]
        for process in measurement.processes
        if process.outcome == "ok" and metric in process.metrics
    ]


def _metric_verdicts(
    now: Measurement, against: Reference, overrides: Mapping[str, Tolerance], *, same_environment: bool
) -> Iterator[MetricVerdict]:
    host_bound = _is_host_bound(now, against.measurement)
    for name, metric in METRICS.items():
        after, before = typical_value(now, name), typical_value(against.measurement, name)
        asked_for = name in overrides or name in against.tolerances
        gates = metric.gate != "advisory" and (asked_for or not _is_noise(metric, against.measurement))
        if before is None:
            if after is not None:
                reason = "the baseline does not have it"
                yield MetricVerdict(metric=name, status="no baseline", now=after, gates=False, reason=reason)
            continue
        if after is None:
            reason = f"not measured: {now.processes[-1].missing.get(name, 'no reason given')}"
            yield MetricVerdict(metric=name, status="inconclusive", baseline=before, gates=gates, reason=reason)
            continue
        rule = _rule(metric, against.tolerances, overrides, same_environment=same_environment, host_bound=host_bound)
        doubt = _scatter(now, against.measurement, name) if rule.exact else None
        judged = _Judged("inconclusive", reason=doubt) if doubt else _worst_device(metric, rule, before, after)
        yield MetricVerdict(
            metric=name,
            status=judged.status,
            baseline=before,
            now=after,
            change=judged.change,
            limit=judged.limit,
            device=judged.device,
            gates=gates,
            reason=judged.reason,
        )


def _is_host_bound(now: Measurement, then: Measurement) -> bool:
    """
    Whether the noise of the row is that of Python and kernel launches.

    The baseline decides where it can: what slows the host down also makes the row host-bound, and
    must not widen the limit that it has to keep.
    """
    if _on_cpu(then):
        return True
    for measurement in (then, now):
        busy_share = typical_value(measurement, "host_bound")
        if isinstance(busy_share, int | float):
            return busy_share < HOST_BOUND_BELOW
    return False


def _is_noise(metric: Metric, then: Measurement) -> bool:
    """Wall time on a CPU, which others share: it fails a row only if somebody has set its tolerance."""
    return metric.unit == "1/s" and _on_cpu(then)


def _on_cpu(measurement: Measurement) -> bool:
    return measurement.environment is not None and measurement.environment.device == "cpu"


class _Rule(NamedTuple):
    tolerance: Tolerance
    said_by: str
    exact: bool = False


def _rule(
    metric: Metric,
    of_row: Mapping[str, Tolerance],
    overrides: Mapping[str, Tolerance],
    *,
    same_environment: bool,
    host_bound: bool,
) -> _Rule:
    if metric.name in overrides:
        return _Rule(overrides[metric.name], "tolerance set for this run")
    if metric.name in of_row:
        return _Rule(of_row[metric.name], "tolerance of the row")
    if metric.gate == "exact" and same_environment:
        return _Rule(Tolerance(), "must be equal within one environment", exact=True)
    if host_bound and metric.host_bound_tolerance is not None:
        return _Rule(metric.host_bound_tolerance, "tolerance of host-bound rows")
    return _Rule(metric.tolerance, "default tolerance")


def _scatter(now: Measurement, then: Measurement, name: str) -> str | None:
    """Why equality cannot be asked for: processes of one side that do not agree."""
    for side, measurement in (("the baseline's", then), ("the", now)):
        values = sorted({str(value) for value in _values(measurement, name)})
        if len(values) > 1:
            return f"{side} processes do not agree on it: {', '.join(values)}; a tolerance of the row would decide"
    return None


class _Judged(NamedTuple):
    status: Status
    reason: str
    change: float | None = None
    limit: float | None = None
    device: int | None = None
    harm: float = 0.0
    """How far it moved the wrong way, relative or absolute: what the worst device has most of."""


def _worst_device(metric: Metric, rule: _Rule, before: Value, after: Value) -> _Judged:
    if not isinstance(before, tuple) and not isinstance(after, tuple):
        return _judge_number(metric, rule, before, after)
    if not isinstance(before, tuple) or not isinstance(after, tuple) or len(before) != len(after) or not before:
        return _Judged("inconclusive", f"not for the same devices: {before} -> {after}")
    judged = [_judge_number(metric, rule, *pair) for pair in zip(before, after, strict=True)]
    worst = max(range(len(judged)), key=lambda device: (_OF_DEVICES.index(judged[device].status), judged[device].harm))
    return judged[worst]._replace(device=worst if len(judged) > 1 else None)


def _judge_number(metric: Metric, rule: _Rule, before: float, after: float) -> _Judged:
    if not (math.isfinite(before) and math.isfinite(after)):
        return _Judged("inconclusive", f"not finite: {before} -> {after}")
    moved = after - before
    limit = max(rule.tolerance.relative * abs(before), rule.tolerance.absolute)
    harm = {"lower": moved, "higher": -moved, "same": abs(moved)}[metric.better]
    # The slack is for floats: 1.0 -> 1.05 is a move of 0.05000000000000004.
    status: Status = "unchanged" if abs(moved) <= limit * (1 + 1e-9) else "regressed" if harm > 0 else "improved"
    if before == 0:
        return _Judged(status, f"{rule.said_by}, at most {limit:.6g} from a baseline of 0", harm=harm)
    scale = abs(before)
    return _Judged(status, rule.said_by, change=moved / scale, limit=limit / scale, harm=harm / scale)


def _without_false_improvements(metrics: tuple[MetricVerdict, ...]) -> tuple[MetricVerdict, ...]:
    """Faster or smaller, but different arithmetic, is not improved."""
    moved = [
        verdict.metric
        for verdict in metrics
        if verdict.gates and verdict.status == "regressed" and METRICS[verdict.metric].better == "same"
    ]
    if not moved:
        return metrics
    reason = f"better, but {', '.join(moved)} moved: it no longer computes the same"
    return tuple(
        msgspec.structs.replace(verdict, status="inconclusive", reason=reason)
        if verdict.status == "improved"
        else verdict
        for verdict in metrics
    )


def _summary(metrics: tuple[MetricVerdict, ...]) -> RowVerdict:
    gating = [verdict for verdict in metrics if verdict.gates]
    if not gating:
        reason = "the baseline has no metric that could fail"
        return RowVerdict(status="inconclusive", metrics=metrics, reason=reason)
    status = max((verdict.status for verdict in gating), key=_OF_ROW.index)
    if status == "unchanged":
        reason = f"{len(gating)} metrics within their limits"
    else:
        reason = f"{status}: {', '.join(verdict.metric for verdict in gating if verdict.status == status)}"
    return RowVerdict(status=status, metrics=metrics, reason=reason)
