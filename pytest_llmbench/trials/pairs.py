"""Measuring the cases of a comparison, pair by pair, until each is settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.reports.comparison.progress import Progress
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.store.journal import Asked, Journal, Taken
from pytest_llmbench.store.pair import Pair, first_side
from pytest_llmbench.tables.selection import Selected
from pytest_llmbench.trials.comparison import Compared, Comparison, package_diff
from pytest_llmbench.trials.settle import Judge, Settled, Wanted, settle, so_far
from pytest_llmbench.trials.sides import Sides

__all__ = ["comparison_of", "judge_of", "measure"]


def judge_of(asked: Asked) -> Judge:
    """B against A by what was asked for."""

    def judge(a: Measurement, b: Measurement) -> RowVerdict:
        if a.outcome == b.outcome and a.outcome in ("crashed", "timeout", "diverged", "invalid"):
            return RowVerdict(status="inconclusive", reason=f"{b.outcome} on both sides: {b.reason}")
        return judge_pair(a, b, asked.tolerances, alpha=asked.plan.alpha)

    return judge


def measure(
    name: str, case: Case, journal: Journal, sides: Callable[[], Sides], *, judge: Judge, progress: Progress
) -> Settled:
    """
    Measure pairs of one case until it is settled; those of the journal count.

    Args:
        name: of the case in the journal.
        sides: gives what to measure with, made when it is first needed.

    Raises:
        JournalError: a pair could not be written down.
        SetupError: nothing can be measured.
    """
    workload = journal.asked.workload
    while True:
        pairs = journal.pairs(name)
        step = settle(pairs, journal.asked.plan, judge)
        if isinstance(step, Settled):
            told = "unavailable" if "unavailable" in (step.a.outcome, step.b.outcome) else step.verdict.status
            progress.end(f"{told}, {len(pairs)} pair{'s' if len(pairs) != 1 else ''}")
            return step
        first = first_side(len(pairs))
        progress.pair(len(pairs) + 1, step.stage)
        explained = any(pair.is_ok for pair in pairs if pair.stage == step.stage)
        a, b = sides().pair(case, workload, first, progress.phase, explain_peak=not explained)
        journal.add(Taken(case=name, pair=Pair(stage=step.stage, first=first, a=a, b=b)))


def comparison_of(journal: Journal, judge: Judge, left_out: Sequence[str] = ()) -> Comparison:
    """What the journal's pairs come to; cases that are not settled are shown as they are so far, and named."""
    asked = journal.asked
    rows: list[Compared] = []
    unsettled = []
    for chosen in asked.selected:
        pairs = journal.pairs(chosen.name)
        found: Settled | Wanted | None = settle(pairs, asked.plan, judge)
        if not isinstance(found, Settled):
            unsettled.append(chosen.name)
            found = so_far(pairs, judge)
        if found is not None:
            rows.append(_compared(chosen, found))
    if unsettled:
        left_out = (*left_out, f"not measured to the end: {', '.join(unsettled)}")
    changes, same = package_diff(asked.a.packages, asked.b.packages)
    return Comparison(
        a=_short(asked.a.name),
        b=_short(asked.b.name),
        measured_on=_measured_on(journal),
        changes=changes,
        num_unchanged=same,
        rows=tuple(rows),
        left_out=tuple(left_out),
    )


def _short(name: str) -> str:
    """As a user in the current folder names it."""
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else name


def _compared(chosen: Selected, step: Settled) -> Compared:
    return Compared.of((chosen.table, chosen.row), step.verdict, step.a, step.b, len(step.a.processes))


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
    device = "" if found is None else found.cpu if found.device == "cpu" else found.device
    return ", ".join(filter(None, [device, f"scale {workload.scale}", samples]))
