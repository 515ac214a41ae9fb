"""
What a bisection follows: one metric, or the outcome, and by how much it moved between the two ends.

A mixture either has the change of one end or that of the other, so it is judged by which of the two it
is nearer to: the limit is half of the whole move.
"""

from __future__ import annotations

import re

import msgspec

from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.plan import Plan
from pytest_llmbench.judge.values import number_text
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import METRICS, Tolerance, title
from pytest_llmbench.schema.units import percent
from pytest_llmbench.trials.bisection.search import Answer
from pytest_llmbench.trials.pairs import Held, Judge

__all__ = ["NothingToFollow", "Signature", "narrowed", "signature_of"]

_LEANS = 0.5
"""The limit for a mixture, as a share of the move between the two ends."""
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?=: |$)")


class NothingToFollow(ValueError):
    """The two ends do not differ in what was to be bisected."""


class Signature(msgspec.Struct, frozen=True):
    """How the bad end tells itself from the good one."""

    metric: str | None
    """None if the bad end does not get to measure anything."""
    status: Status
    """Of the bad end."""
    change: float = 0.0
    """Relative to the good end; of a metric that is 0 there, in its unit."""
    relative: bool = True
    outcome: str = "ok"
    """Of the bad end's processes."""
    reason: str = ""
    """Why the bad end's processes do not measure."""
    where: str = ""
    """What moved most between the ends, and in which function; empty where no profile says it."""

    def judge(self) -> Judge:
        """A mixture against the good end, by this metric alone."""
        size = abs(self.change) * _LEANS
        limit = Tolerance(relative=size) if self.relative else Tolerance(absolute=size)

        def judge(a: Measurement, b: Measurement) -> RowVerdict:
            if self.metric is None:
                return judge_pair(a, b)
            verdict = narrowed(judge_pair(a, b, {self.metric: limit}), self.metric)
            return _doubted(verdict, size) if self.relative else verdict

        return judge

    def plan(self, asked: Plan) -> Plan:
        """
        The pairs that a mixture gets, where the ends get what was *asked* for.

        One is enough of what repeats itself: the ends have shown that it does, and half of their move decides.
        """
        return asked if self.metric is None or METRICS[self.metric].gate in ("statistical", "advisory") else Plan()

    def answer(self, settled: Held) -> tuple[Answer, str]:
        """What a settled mixture says, and that in words."""
        outcome = settled.b.outcome
        if self.metric is None:
            same = outcome == self.outcome and _exception(settled.b.reason) == _exception(self.reason)
            told = outcome if same or outcome == "ok" else f"{outcome}: {settled.b.reason}"
            return ("bad" if same else "good" if outcome == "ok" else "skip"), told
        if (settled.a.outcome, outcome) != ("ok", "ok"):
            return "skip", f"{outcome}: {settled.b.reason or settled.a.reason}"
        verdict = settled.verdict
        told = _move(verdict.metrics[0]) if verdict.metrics else verdict.reason
        if verdict.status == self.status:
            return "bad", told
        # Farther than half of the way in the other direction is not what the bad end does.
        return ("good" if verdict.status in ("unchanged", "improved", "regressed") else "skip"), told

    def change_text(self, then: Measurement, now: Measurement) -> str:
        """How the metric moved between two environments, and in which functions; where it fails, why it does."""
        if self.metric is None:
            return f"{now.outcome}: {now.reason}"
        verdict = self.judge()(then, now)
        if not verdict.metrics:
            return verdict.reason
        moved = verdict.metrics[0]
        return f"{title(self.metric)} {_move(moved)}" + (f": {'; '.join(moved.movers)}" if moved.movers else "")

    def __str__(self) -> str:
        if self.metric is None:
            return f"outcome {self.outcome}" + (f": {self.reason}" if self.reason else "")
        by = percent(self.change) if self.relative else f"{self.change:+g}"
        where = f": {self.where}" if self.where else ""
        return f"{title(self.metric)} {by}, {self.status}{where}"


def narrowed(verdict: RowVerdict, metric: str) -> RowVerdict:
    """The verdict on one metric alone, whether it gates the row or not; one without it stays as it is."""
    found = [one for one in verdict.metrics if one.metric == metric]
    if not found:
        return verdict
    one = msgspec.structs.replace(found[0], gates=True)
    return msgspec.structs.replace(verdict, status=one.status, metrics=(one,), reason=one.reason)


def signature_of(settled: Held, metric: str | None) -> Signature:
    """
    What to follow: *metric*, or the one that moved the row most beyond its limit.

    Raises:
        NothingToFollow: it did not move.
    """
    verdict, outcome = settled.verdict, settled.b.outcome
    if settled.a.outcome != "ok" or (outcome != "ok" and metric is not None):
        raise NothingToFollow(f"there is nothing to follow: {verdict.reason}")
    if outcome != "ok":
        return Signature(None, verdict.status, outcome=outcome, reason=settled.b.reason or "")
    moved = [one for one in verdict.metrics if one.status in ("regressed", "improved")]
    if metric is not None:
        moved = [one for one in moved if one.metric == metric]
    else:
        moved = [one for one in moved if one.gates and one.status == verdict.status]
    if not moved:
        told = f"{metric} is {_status(verdict, metric)}" if metric else verdict.reason
        raise NothingToFollow(f"good and bad do not differ: {told}; bisect another case or --metric")
    chosen = max(moved, key=_beyond)
    where = chosen.movers[0] if chosen.movers else ""
    if chosen.change is not None:
        return Signature(chosen.metric, chosen.status, chosen.change, where=where)
    return Signature(chosen.metric, chosen.status, _difference(chosen), relative=False, where=where)


def _exception(reason: str | None) -> str | None:
    """The class of the exception that a reason tells; None where it tells of something else."""
    found = _EXCEPTION.match(reason or "")
    return found[0] if found else None


def _doubted(verdict: RowVerdict, size: float) -> RowVerdict:
    """Undecided if noise reaches over the limit, on the side to which the metric leans, or how far is not known."""
    if verdict.status == "unmeasured" or not verdict.metrics:
        return verdict
    if METRICS[verdict.metrics[0].metric].gate != "statistical":
        return verdict
    interval = verdict.metrics[0].interval
    if interval is not None and not any(interval[0] < edge < interval[1] for edge in (-size, size)):
        return verdict
    return msgspec.structs.replace(verdict, status="undecided")


def _beyond(verdict: MetricVerdict) -> float:
    """How many times its limit a metric moved; what has a limit of 0, without limit."""
    if verdict.change is None or not verdict.limit:
        return float("inf")
    return abs(verdict.change) / verdict.limit


def _difference(verdict: MetricVerdict) -> float:
    before, now = verdict.baseline, verdict.now
    if isinstance(before, tuple) or isinstance(now, tuple) or before is None or now is None:
        raise NothingToFollow(f"{verdict.metric} was 0 on one of the GPUs; choose another --metric")
    return now - before


def _status(verdict: RowVerdict, metric: str) -> str:
    found = [one for one in verdict.metrics if one.metric == metric]
    if found:
        return f"{found[0].status} ({found[0].reason})"
    return "not measured" if metric in METRICS else "no metric"


def _move(verdict: MetricVerdict) -> str:
    before, now = number_text(verdict.metric, verdict.baseline), number_text(verdict.metric, verdict.now)
    change = "" if verdict.change is None else f", {percent(verdict.change)}"
    return f"{before} -> {now}{change}"
