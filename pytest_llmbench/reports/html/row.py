"""
What the report shows of one row once it is opened: every metric, its processes, its kernels, what ran.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

import msgspec

from pytest_llmbench.judge.values import number_text, number_texts, shown_unit
from pytest_llmbench.judge.verdict import MetricVerdict
from pytest_llmbench.reports.html.charts import Axis, Lane, Strip, axis, lane, strip
from pytest_llmbench.reports.html.held import Held, total, values_of
from pytest_llmbench.reports.html.kernels import Kernels, kernels
from pytest_llmbench.reports.html.memory import Allocations, Memory, allocations, memory
from pytest_llmbench.reports.table import SYMBOLS, change_text, limit_text, verdict_text
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.schema.metrics import METRICS, Value, headlines, title
from pytest_llmbench.schema.units import gib, plain, seconds

__all__ = ["Detail", "MetricLine", "Phase", "Scatter", "detail"]


class MetricLine(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of the row."""

    name: str
    label: str
    describe: str
    now: str
    baseline: str = ""
    change: str = ""
    limit: str = ""
    status: str = ""
    """Or `advisory`; empty where it was held against nothing."""
    symbol: str = ""
    reason: str = ""
    strip: Strip | None = None


class Scatter(msgspec.Struct, frozen=True, kw_only=True):
    """The processes of both sides on one axis."""

    label: str
    better: str
    axis: Axis
    lanes: tuple[Lane, ...]


class Phase(msgspec.Struct, frozen=True):
    """A stretch of a process's time."""

    name: str
    percent: float
    text: str


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one row; what is not known is empty."""

    message: tuple[str, ...]
    explanation: str
    note: str
    metrics: tuple[MetricLine, ...]
    scatters: tuple[Scatter, ...]
    kernels: Kernels | None
    memory: Memory | None
    allocations: Allocations | None
    phases: tuple[Phase, ...]
    packages: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    ran: tuple[tuple[str, str], ...]
    evidence: tuple[tuple[str, str], ...]
    missing: tuple[tuple[str, str], ...]
    command: str


def detail(row: Held) -> Detail:
    """Everything about one row, from its result and the baseline's processes where they are to be had."""
    result, measurement = row.result, row.result.measurement
    last = measurement.processes[-1]
    message = tuple(line for line in result.message.splitlines() if line) or (result.verdict.reason,)
    return Detail(
        message=message,
        explanation="" if result.verdict.explanation in result.message else result.verdict.explanation,
        note=row.note,
        metrics=tuple(_metric_lines(row)),
        scatters=tuple(_scatters(row)),
        kernels=kernels(row.before, measurement),
        memory=memory(row.before, measurement),
        allocations=allocations(row.before, measurement),
        phases=_phases(last),
        packages=() if "Packages: " in result.message else tuple(map(str, result.verdict.package_changes)),
        facts=tuple(_facts(row)),
        ran=tuple(last.ran.items()),
        evidence=tuple(_evidence(last)),
        missing=tuple(last.missing.items()),
        command=f"pytest {shlex.quote(result.nodeid)} --llmbench"
        + (" --llmbench-scale=smoke" if measurement.workload.scale == "smoke" else ""),
    )


def _metric_lines(row: Held) -> Iterator[MetricLine]:
    judged = {verdict.metric: verdict for verdict in row.result.verdict.metrics}
    measured = row.result.measurement.processes[-1].metrics
    # A result file may come from a version that knows more metrics.
    for name in dict.fromkeys([*METRICS, *judged, *measured]):
        if name in judged:
            yield _judged(judged[name])
        elif name in measured:
            yield _measured(name, measured[name])


def _judged(verdict: MetricVerdict) -> MetricLine:
    status = verdict_text(verdict)
    baseline, now = number_texts(verdict)
    return msgspec.structs.replace(
        _measured(verdict.metric, verdict.now),
        now=now,
        baseline=baseline,
        change=change_text(verdict),
        limit=limit_text(verdict.limit) if verdict.gates and verdict.limit is not None else "",
        status=status,
        symbol=SYMBOLS.get(status, ""),
        reason=verdict.reason,
        strip=_strip(verdict),
    )


def _strip(verdict: MetricVerdict) -> Strip | None:
    if not verdict.gates or verdict.change is None or verdict.limit is None:
        return None
    return strip(verdict.change, verdict.limit, verdict.interval)


def _measured(name: str, value: Value | None) -> MetricLine:
    return MetricLine(
        name=name,
        label=title(name),
        describe=METRICS[name].describe if name in METRICS else "",
        now=number_text(name, value),
    )


def _scatters(row: Held) -> Iterator[Scatter]:
    """The headline metrics, and those that failed, where any side has a process that measured them."""
    moved = [verdict.metric for verdict in row.result.verdict.metrics if verdict.gates and _is_bad(verdict)]
    for name in dict.fromkeys([*headlines(), *moved]):
        now, before = values_of(row.result.measurement, name), values_of(row.before, name)
        if not now and not before:
            continue
        published = _published(row, name)
        on = axis([*now, *before, *published], scale=shown_unit(name))
        sides = (("published", "published", published), ("baseline", "baseline", before), ("now", "now", now))
        lanes = tuple(
            lane(told, kind, side, on, form=_form(name), scale=shown_unit(name)) for told, kind, side in sides if side
        )
        yield Scatter(label=title(name), better=METRICS[name].better, axis=on, lanes=lanes)


def _is_bad(verdict: MetricVerdict) -> bool:
    known = METRICS.get(verdict.metric)
    return known is not None and known.better != "same" and verdict.status in ("regressed", "unmeasured", "undecided")


def _published(row: Held, name: str) -> list[float]:
    if row.published is None or row.result.measurement.workload.scale != "full":
        return []
    value = total(row.published.value(name))
    return [] if value is None else [value]


def _form(name: str) -> str:
    return "{:.2f}" if METRICS[name].unit in ("B", "s", "1/s") else "{:.5g}"


def _phases(process: Process) -> tuple[Phase, ...]:
    whole = sum(process.phase_seconds.values())
    if not whole > 0:
        return ()
    return tuple(
        Phase(name, round(spent / whole * 100, 2), f"{name} {seconds(spent)}")
        for name, spent in process.phase_seconds.items()
    )


def _facts(row: Held) -> Iterator[tuple[str, str]]:
    measurement = row.result.measurement
    yield "test", row.result.nodeid
    yield "measured", measurement.measured_at
    before = f", baseline {len(row.before.processes)}" if row.before else ""
    yield "processes", f"{len(measurement.processes)}{before}"
    yield "outcome", measurement.outcome + (f": {measurement.reason}" if measurement.reason else "")
    workload = measurement.workload
    yield "workload", f"{workload.scale} scale on {workload.device}, {workload.samples} samples"
    if workload.injection is not None:
        yield "planted", workload.injection.text
    case = msgspec.structs.asdict(measurement.case)
    yield "case", ", ".join(f"{name} {plain(value)}" for name, value in case.items() if value not in (None, {}))
    if row.result.seconds:
        yield "took", seconds(row.result.seconds)


_EVIDENCE: Mapping[str, tuple[str, str]] = {
    "cards": ("cards", ""),
    "idle_used_bytes": ("in use before", "GiB"),
    "driver_reserved_bytes": ("kept by the driver", "GiB"),
    "foreign_processes": ("processes of others", ""),
    "sm_clock_mhz": ("SM clock", "MHz"),
    "memory_clock_mhz": ("memory clock", "MHz"),
    "power_watts": ("power", "W"),
    "temperature_celsius": ("temperature", "\N{DEGREE SIGN}C"),
    "power_cap_seconds": ("held down by power cap", "s"),
    "thermal_slowdown_seconds": ("thermal slow-down", "s"),
    "hardware_slowdown_seconds": ("hardware slow-down", "s"),
    "allocation_retries": ("allocation retries", ""),
    "freed_segments": ("freed segments", ""),
    "canary_flops_per_second": ("canary, matrix product", "flop/s"),
    "canary_copy_bytes_per_second": ("canary, copy", "B/s"),
    "busy_seconds_per_sample": ("busy per sample", "s"),
    "recompilations": ("compiled in the rounds", ""),
}


def _evidence(process: Process) -> Iterator[tuple[str, str]]:
    for name, value in msgspec.structs.asdict(process.evidence).items():
        if value is None:
            continue
        label, unit = _EVIDENCE.get(name, (name, ""))
        parts = value if isinstance(value, tuple) else (value,)
        yield label, f"{', '.join(_part(part, unit) for part in parts)} {unit}".strip()


def _part(value: str | float, unit: str) -> str:
    if isinstance(value, str):
        return value
    return gib(value) if unit == "GiB" else f"{value:.4g}"
