"""
A trial: one row observed until its plan has it settled.

`pytest --llmbench`, `llmbench ab` and `llmbench bisect` run it, and so does `benchmarks.verdicts`, which draws what
it observes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from pytest_llmbench.judge.plan import Kind, Plan, Settled, Wanted, settle
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.store.pair import Pair

__all__ = ["PAIR", "PAIRED", "PROCESS", "STORED", "run"]

T = TypeVar("T")

PROCESS: Kind[Process] = Kind("process", lambda process: (process.outcome,), failures=1, repeats=0)
"""A process against a stored baseline."""

PAIR: Kind[Pair] = Kind("pair", lambda pair: pair.outcomes, failures=2, repeats=1)
"""A process of each side. One that fails is measured again, and a count that moved is looked at twice."""

STORED = Plan(screen=1, max_processes=9, looks=2)
"""What a row gets against a stored baseline, unless a user says otherwise."""

PAIRED = Plan(screen=2, max_processes=8, looks=2)
"""What a row gets in pairs, unless a user says otherwise."""


def run(
    plan: Plan,
    kind: Kind[T],
    judge: Callable[[Sequence[T]], RowVerdict],
    observe: Callable[[Wanted], Iterable[T]],
    taken: Iterable[T] = (),
) -> Settled[T] | Wanted:
    """
    The settled row, or what is still wanted of it once nothing more can be observed.

    Args:
        judge: the verdict on some of the observations.
        observe: gives some of the observations that are wanted; none if there are no more to be had.
        taken: what was observed before.
    """
    known = list(taken)
    while isinstance(step := settle(plan, kind, known, judge), Wanted):
        before = len(known)
        known.extend(observe(step))
        if len(known) == before:
            return step
    return step
