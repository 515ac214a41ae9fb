"""
The rule: one measurement held against a stored one, metric by metric.

Pure. A count or a parameter has to be equal within one environment; memory and the arithmetic have
limits; speeds are judged by their noise, see `judge.decision`. A tolerance that a user sets is a
plain limit and takes the place of all that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from pytest_llmbench.judge.comparable import around, differences, environment_changes
from pytest_llmbench.judge.decision import ALPHA, SESSIONS, Design
from pytest_llmbench.judge.explain import explain
from pytest_llmbench.judge.limits import Limited, held_to, limit_of, scatter, set_by_user, spread
from pytest_llmbench.judge.movers import movers
from pytest_llmbench.judge.noise import GUESSED, on_other_cards, row_class
from pytest_llmbench.judge.speed import judge_speed
from pytest_llmbench.judge.statistics import FEWEST_SEEN
from pytest_llmbench.judge.validity import canary_change, held_back, recompilations, same_cards
from pytest_llmbench.judge.values import logarithms, typical_value
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import METRICS, NOTHING_SEEN, Metric, Noise, RowClass, Tolerance, Value, statistical
from pytest_llmbench.schema.units import percent

__all__ = ["Reference", "Rules", "held_against", "judge", "typical_value"]

CANARY_LIMIT = 0.03
"""A canary that moved by less than this is taken for noise of the GPU."""
_NO_TOLERANCES: Mapping[str, Tolerance] = {}
_NO_NOISE: Mapping[str, Noise] = {}
_OF_ROW: tuple[Status, ...] = ("unchanged", "improved", "undecided", "unmeasured", "regressed")
"""A row has the last of these that one of its metrics has."""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement is held against."""

    measurement: Measurement
    tolerances: Mapping[str, Tolerance] = _NO_TOLERANCES
    """The row's own, by metric."""
    noise: Mapping[str, Noise] = _NO_NOISE
    """The row's own, by metric; others have the noise of the row's class."""
    workload_version: int | None = None
    """`workload.workload_version` when it was measured; None for that of today."""


class Rules(NamedTuple):
    """What a comparison goes by, beside the two measurements."""

    overrides: Mapping[str, Tolerance] = _NO_TOLERANCES
    design: Design = SESSIONS


def judge(
    now: Measurement,
    against: Reference | None,
    overrides: Mapping[str, Tolerance] = _NO_TOLERANCES,
) -> RowVerdict:
    """
    Hold *now* against a reference; None stands for a row that has none.

    Args:
        overrides: tolerances of the command line or the ini file, which beat the row's own, which
            beat the rules of `metrics.METRICS`.
    """
    return held_against(now, against, Rules(overrides))


def held_against(now: Measurement, against: Reference | None, rules: Rules) -> RowVerdict:
    """As `judge`, by any rules."""
    before = against.measurement.environment if against else None
    changes, unchanged = environment_changes(before, now.environment)
    if now.outcome in ("crashed", "timeout", "diverged"):
        told = _told(now)
        row = (
            RowVerdict(status="regressed", reason=told)
            if against
            else RowVerdict(status="no baseline", reason=f"{told}; no baseline is stored for this row")
        )
    elif now.outcome in ("invalid", "unavailable"):
        row = RowVerdict(status="unmeasured", reason=_told(now))
    elif against is None:
        row = RowVerdict(status="no baseline", reason="no baseline is stored for this row")
    else:
        row = _compared(now, against, rules, same_environment=not changes)
    beside, code_known = around(before, now.environment)
    return msgspec.structs.replace(
        row, package_changes=(*changes, *beside), unchanged_packages=unchanged, code_known=code_known
    )


def _compared(now: Measurement, against: Reference, rules: Rules, *, same_environment: bool) -> RowVerdict:
    then = against.measurement
    if then.outcome not in ("ok", "oom"):
        return RowVerdict(status="unmeasured", reason=f"nothing to hold it against: {_told(then)}")
    differing = differences(then, now, against.workload_version) | _other_work(then, now)
    if differing:
        told = "; ".join(f"{name} {old} -> {new}" for name, (old, new) in differing.items())
        return RowVerdict(status="not comparable", differing=tuple(differing), reason=f"not comparable: {told}")
    match (then.outcome, now.outcome):
        case ("ok", "ok"):
            sides = _Sides(now, against, rules, row_class(then, now), same_environment)
            metrics = tuple(
                filter(None, (_excused(_metric_verdict(metric, sides), sides) for metric in METRICS.values()))
            )
            metrics = tuple(_with_movers(verdict, then, now) for verdict in metrics)
            row = _summary(_without_false_improvements(metrics))
            return msgspec.structs.replace(row, explanation=explain(row.metrics, then, now))
        case ("ok", "oom"):
            return RowVerdict(status="regressed", reason=f"the baseline fits into memory, now {_told(now)}")
        case ("oom", "ok"):
            return RowVerdict(status="improved", reason="fits into memory, the baseline does not")
        case _:
            return RowVerdict(status="unchanged", reason="out of memory, as the baseline")


def _other_work(then: Measurement, now: Measurement) -> dict[str, tuple[object, object]]:
    """Metrics that say how much work was done, and say something else on the other side."""
    found = {
        metric.name: (typical_value(then, metric.name), typical_value(now, metric.name))
        for metric in METRICS.values()
        if metric.gate == "workload"
    }
    return {name: sides for name, sides in found.items() if None not in sides and sides[0] != sides[1]}


def _told(measurement: Measurement) -> str:
    outcome = "out of memory" if measurement.outcome == "oom" else measurement.outcome
    return f"{outcome}: {measurement.reason}" if measurement.reason else outcome


class _Sides(NamedTuple):
    """Two measurements that compare, and by what."""

    now: Measurement
    against: Reference
    rules: Rules
    kind: RowClass
    same_environment: bool


def _metric_verdict(metric: Metric, sides: _Sides) -> MetricVerdict | None:
    """None for a metric that neither side has."""
    name, then = metric.name, sides.against.measurement
    before, after = typical_value(then, name), typical_value(sides.now, name)
    if before is None:
        return None if after is None else _novel(metric, after, then)
    if metric.of_python and (versions := _pythons(then, sides.now)):
        reason = f"counted by Python {versions[0]} and by {versions[1]}, which count otherwise"
        return MetricVerdict(
            metric=name, status="not comparable", baseline=before, now=after, gates=False, reason=reason
        )
    limit = set_by_user(metric, sides.against.tolerances, sides.rules.overrides)
    gates = metric.gate != "advisory" and (limit is not None or not _is_told(metric, sides))
    verdict = MetricVerdict(
        metric=name, status="unmeasured", baseline=before, now=after, gates=gates, reason=_why_absent(sides.now, name)
    )
    if after is None:
        return verdict
    if metric.gate == "statistical":
        verdict = _by_noise(verdict, metric, sides)
        if limit is None:
            return _in_its_company(verdict, sides)
    limit = limit or limit_of(metric, same_environment=sides.same_environment, spread=spread(sides.now, then, metric))
    doubt = scatter(sides.now, then, metric) if limit.exact else None
    limited = Limited("unmeasured", doubt) if doubt else held_to(limit, metric, before, after)
    return msgspec.structs.replace(
        verdict,
        status=limited.status,
        change=limited.change,
        limit=limited.limit,
        device=limited.device,
        p_value=None,
        processes_needed=None,
        gates=gates,
        reason=limited.reason,
    )


def _with_movers(verdict: MetricVerdict, then: Measurement, now: Measurement) -> MetricVerdict:
    """What made the metric move, if it did."""
    before, after = verdict.baseline, verdict.now
    if verdict.status not in ("regressed", "improved", "undecided") or before is None or after is None:
        return verdict
    metric = METRICS[verdict.metric]
    rose = _total(after) > _total(before)
    more = not rose if metric.better == "higher" else rose  # what a speed is explained by is a cost
    found = movers(metric, then, now, more=more)
    return msgspec.structs.replace(
        verdict, movers=tuple(map(str, found)), mover_costs=tuple(mover.cost for mover in found)
    )


def _total(value: Value) -> float:
    return sum(value) if isinstance(value, tuple) else value


def _novel(metric: Metric, after: Value, then: Measurement) -> MetricVerdict:
    """A metric that the baseline lacks; one whose counter saw nothing there leaves open whether it moved."""
    if any(metric.name in process.metrics for process in then.processes if process.outcome == "ok"):
        reason = "the baseline's counter read 0: it saw nothing; record the baseline again"
        gates = metric.gate != "advisory"
        return MetricVerdict(metric=metric.name, status="unmeasured", now=after, gates=gates, reason=reason)
    reason = "the baseline does not have it"
    return MetricVerdict(metric=metric.name, status="no baseline", now=after, gates=False, reason=reason)


def _excused(verdict: MetricVerdict | None, sides: _Sides) -> MetricVerdict | None:
    """A speed that is worse for another reason than the libraries is not known: neither green nor a regression."""
    if verdict is None or verdict.status != "regressed" or METRICS[verdict.metric].gate != "statistical":
        return verdict
    reason = _compiled_more(sides) or _gpu_is_slower(verdict, sides)
    if reason is None:
        return verdict
    return msgspec.structs.replace(verdict, status="unmeasured", processes_needed=None, reason=reason)


def _compiled_more(sides: _Sides) -> str | None:
    before, after = (recompilations(side) for side in (sides.against.measurement, sides.now))
    if before is None or after is None or after <= before:
        return None
    return f"torch.compile compiled {after} graphs within the measured rounds, for the baseline {before}"


def _gpu_is_slower(verdict: MetricVerdict, sides: _Sides) -> str | None:
    """
    The canary, if what it leaves of the change is within the limit.

    Only between sessions of the same libraries: they carry the canary too, and pairs share the GPU.
    """
    gpu = canary_change(sides.against.measurement, sides.now)
    if gpu is None or gpu > -CANARY_LIMIT or sides.rules.design.pairs or not sides.same_environment:
        return None
    assert verdict.change is not None
    slower = verdict.change if METRICS[verdict.metric].better == "lower" else 1 / (1 + verdict.change) - 1
    if (1 + slower) * (1 + gpu) - 1 > (verdict.limit or 0.0):
        return None
    return (
        f"the GPU itself is {percent(-gpu).lstrip('+')} slower than when the baseline was recorded, "
        "by the matrix product and the copy after each case"
    )


def _in_its_company(verdict: MetricVerdict, sides: _Sides) -> MetricVerdict:
    """Wall time of a row that shared its CPUs with others says nothing of one that was alone, and the reverse."""
    then, now = sides.against.measurement, sides.now
    if verdict.metric != "samples_per_second" or _alone(then) == _alone(now):
        return verdict
    who = "the baseline" if _alone(now) else "this one"
    reason = f"advisory: {who} was measured beside other rows, which share the CPUs"
    return msgspec.structs.replace(verdict, gates=False, reason=reason)


def _alone(measurement: Measurement) -> bool:
    """What is not known counts as alone: it was recorded before anybody looked."""
    return not any(process.neighbours for process in measurement.processes)


def _why_absent(now: Measurement, name: str) -> str:
    last = now.processes[-1]
    why = NOTHING_SEEN if name in last.metrics else last.missing.get(name, "no reason given")
    return f"not measured: {why}"


def _is_told(metric: Metric, sides: _Sides) -> bool:
    """
    Tell whether a metric fails a row only if somebody has set its tolerance.

    That is so of wall time on a CPU, which others share, and of what another environment counts: what the things
    cost is in metrics of their own.
    """
    if metric.told_across and not sides.same_environment:
        return True
    return metric.unit == "1/s" and sides.kind == "CPU"


def _pythons(then: Measurement, now: Measurement) -> tuple[str, str] | None:
    """The minor versions of Python of both sides, if they differ."""
    versions = [".".join(side.environment.python.split(".")[:2]) for side in (then, now) if side.environment]
    return (versions[0], versions[1]) if len(set(versions)) > 1 else None


def _by_noise(verdict: MetricVerdict, metric: Metric, sides: _Sides) -> MetricVerdict:
    before = logarithms(sides.against.measurement, metric.name)
    after = logarithms(sides.now, metric.name)
    if not before or not after:
        reason = f"not a number above 0 in every process: {verdict.baseline} -> {verdict.now}"
        return msgspec.structs.replace(verdict, reason=reason)
    if sides.rules.design.pairs and len(before) != len(after):
        return msgspec.structs.replace(verdict, reason="not measured in every process of every pair")
    noise, aside = sides.against.noise.get(metric.name) or metric.prior[sides.kind], ""
    if metric.name not in sides.against.noise and _by_its_card(sides):
        noise = on_other_cards(noise)
        aside = "; its power limit holds the GPU back, and this may be another one"
    alpha = ALPHA / len(statistical())
    speed = judge_speed(metric, before, after, noise, design=sides.rules.design, alpha=alpha)
    judged: dict[str, Any] = speed._asdict() | {"gates": verdict.gates and speed.gates}
    if speed.status == "undecided":
        judged["reason"] += aside
    if not _noise_is_known(metric, sides, len(after)):
        why = "advisory: nothing is known of its noise here, calibrate the row or measure more pairs"
        judged |= {"interval": None, "detectable": None, "reason": why}
    return msgspec.structs.replace(verdict, **judged)


def _noise_is_known(metric: Metric, sides: _Sides, processes: int) -> bool:
    """Whether anything was ever measured of it: of the row, of its class, or by these pairs themselves."""
    seen = processes - 1 if sides.rules.design.pairs else 0  # the noise between two sessions no process shows
    return metric.name in sides.against.noise or sides.kind not in GUESSED or seen >= FEWEST_SEEN


def _by_its_card(sides: _Sides) -> bool:
    """Whether one card may be faster here than another of its kind; pairs share theirs."""
    then, now = sides.against.measurement, sides.now
    return not sides.rules.design.pairs and (held_back(then) or held_back(now)) and not same_cards(then, now)


def _moved_aside(verdict: MetricVerdict) -> str:
    """What is said of a speed that moved by more than its noise and does not count for the row; else nothing."""
    if verdict.gates or verdict.interval is None or verdict.change is None:
        return ""
    low, high = verdict.interval
    if low <= 0 <= high:
        return ""
    words = METRICS[verdict.metric].words
    return f"; {words} {percent(verdict.change)} ({percent(low)} to {percent(high)}), which cannot fail this row"


def _without_false_improvements(metrics: tuple[MetricVerdict, ...]) -> tuple[MetricVerdict, ...]:
    """Faster or smaller, but different arithmetic, or arithmetic that nobody saw, is not improved."""
    doubtful = [
        verdict.metric
        for verdict in metrics
        if verdict.gates and verdict.status in ("regressed", "unmeasured") and METRICS[verdict.metric].better == "same"
    ]
    if not doubtful:
        return metrics
    reason = f"better, but {', '.join(doubtful)} moved or is not known: it may no longer compute the same"
    return tuple(
        msgspec.structs.replace(verdict, status="unmeasured", reason=reason)
        if verdict.status == "improved"
        else verdict
        for verdict in metrics
    )


def _summary(metrics: tuple[MetricVerdict, ...]) -> RowVerdict:
    gating = [verdict for verdict in metrics if verdict.gates]
    noisy = [verdict.metric for verdict in metrics if verdict.status == "undecided" and not verdict.gates]
    aside = f"; too noisy to count: {', '.join(noisy)}" if noisy else ""
    aside += "".join(map(_moved_aside, metrics))
    if not gating:
        reason = f"the baseline has no metric that could fail{aside}"
        return RowVerdict(status="undecided" if noisy else "unmeasured", metrics=metrics, reason=reason)
    status = max((verdict.status for verdict in gating), key=_OF_ROW.index)
    deciding = [verdict for verdict in gating if verdict.status == status]
    if status == "unchanged":
        reason = f"{len(gating)} metrics within their limits{aside}"
    else:
        reason = f"{status}: {', '.join(verdict.metric for verdict in deciding)}{aside}"
    return RowVerdict(
        status=status,
        metrics=metrics,
        processes_needed=max((verdict.processes_needed or 0 for verdict in deciding), default=0) or None,
        reason=reason,
    )
