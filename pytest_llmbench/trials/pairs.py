"""Measuring the cases of a comparison, pair by pair, until each is settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.plan import Plan, Settled, Wanted, settle, so_far
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.units import counted
from pytest_llmbench.store.files import from_here
from pytest_llmbench.store.journal import Asked, Journal, Taken
from pytest_llmbench.store.pair import Pair, first_side, merged
from pytest_llmbench.trials.comparison import Compared, Comparison, device_name, is_code_known, package_diff
from pytest_llmbench.trials.progress import Progress
from pytest_llmbench.trials.sides import Sides
from pytest_llmbench.trials.trial import PAIR, run

__all__ = ["Held", "Judge", "comparison_of", "held_so_far", "judge_of", "measure"]


Judge = Callable[[Measurement, Measurement], RowVerdict]


class Held(NamedTuple):
    """A case on both sides, and what became of it."""

    verdict: RowVerdict
    a: Measurement
    b: Measurement
    """The processes that the verdict is about."""


def judge_of(asked: Asked) -> Judge:
    """B against A by what was asked for."""

    def judge(a: Measurement, b: Measurement) -> RowVerdict:
        if a.outcome == b.outcome and a.outcome in ("crashed", "timeout", "diverged", "invalid"):
            return RowVerdict(status="unmeasured", reason=f"{b.outcome} on both sides: {b.reason}")
        return judge_pair(a, b, asked.tolerances)

    return judge


def measure(
    name: str,
    case: Case,
    journal: Journal,
    sides: Callable[[], Sides],
    *,
    judge: Judge,
    progress: Progress,
    plan: Plan | None = None,
) -> Held:
    """
    Measure pairs of one case until it is settled; those of the journal count.

    Args:
        name: of the case in the journal.
        sides: gives what to measure with, made when it is first needed.
        plan: how many pairs the case gets, if not as many as were asked for.

    Raises:
        ResultError: a pair could not be written down.
        SetupError: nothing can be measured.
    """
    plan = plan or journal.asked.plan

    def observe(wanted: Wanted) -> tuple[Pair]:
        taken = journal.pairs(name)
        first = first_side(len(taken))
        progress.pair(len(taken) + 1, confirms=wanted.confirms)
        # What looks moved has to look so in the pairs that confirm it, too.
        alike = taken[plan.screen :] if wanted.confirms else taken
        with_profile = not any(pair.is_ok for pair in alike)
        a, b = sides().pair(case, journal.asked.workload, first, progress.phase, with_profile=with_profile)
        pair = Pair(first=first, a=a, b=b)
        journal.add(Taken(case=name, pair=pair))
        return (pair,)

    step = run(plan, PAIR, _of_pairs(judge), observe, journal.pairs(name))
    assert isinstance(step, Settled)  # another pair can always be had
    held = _held(step)
    told = "unavailable" if "unavailable" in (held.a.outcome, held.b.outcome) else held.verdict.status
    num_pairs = len(journal.pairs(name))
    progress.end(f"{told}, {counted(num_pairs, 'pair')}")
    return held


def held_so_far(journal: Journal, name: str, judge: Judge) -> tuple[Held | None, bool]:
    """Verdict of the journal's pairs of a case, None without a good one; and whether the case is settled."""
    pairs = journal.pairs(name)
    step = settle(journal.asked.plan, PAIR, pairs, _of_pairs(judge))
    if isinstance(step, Settled):
        return _held(step), True
    found = so_far(PAIR, pairs, _of_pairs(judge), "not measured to the end")
    return (None if found is None else _held(found)), False


def _of_pairs(judge: Judge) -> Callable[[Sequence[Pair]], RowVerdict]:
    return lambda pairs: judge(*merged(pairs))


def _held(settled: Settled[Pair]) -> Held:
    return Held(settled.verdict, *merged(settled.taken))


def comparison_of(journal: Journal, judge: Judge, left_out: Sequence[str] = ()) -> Comparison:
    """Comparison from the journal's pairs; cases that are not settled are shown as they are so far, and named."""
    asked = journal.asked
    rows: list[Compared] = []
    unsettled = []
    for chosen in asked.selected:
        found, is_settled = held_so_far(journal, chosen.name, judge)
        if not is_settled:
            unsettled.append(chosen.name)
        if found is not None:
            name = chosen.table, chosen.row
            rows.append(Compared.of(name, found.verdict, found.a, found.b, len(found.a.processes)))
    if unsettled:
        left_out = (*left_out, f"not measured to the end: {', '.join(unsettled)}")
    changes, same = package_diff(asked.a, asked.b)
    return Comparison(
        a=from_here(asked.a.name),
        b=from_here(asked.b.name),
        measured_on=_measured_on(journal),
        changes=changes,
        num_unchanged=same,
        code_known=is_code_known(asked.a, asked.b),
        rows=tuple(rows),
        left_out=tuple(left_out),
    )


def _measured_on(journal: Journal) -> str:
    workload = journal.asked.workload
    samples = "whole epoch" if workload.samples == "full" else f"{workload.samples} samples"
    environments = (
        one.environment
        for chosen in journal.asked.selected
        for pair in journal.pairs(chosen.name)
        for one in (pair.a, pair.b)
    )
    found = next((environment for environment in environments if environment is not None), None)
    return ", ".join(filter(None, [device_name(found) if found else "", f"scale {workload.scale}", samples]))
