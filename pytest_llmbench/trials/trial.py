"""
A trial: one row observed until its plan has it settled.

`pytest --llmbench`, `llmbench ab` and `llmbench bisect` run it, and so does `benchmarks.verdicts`, which draws what
it observes. What was disturbed while it was measured is measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from pytest_llmbench.judge.plan import Kind, Plan, Settled, Wanted, settle
from pytest_llmbench.judge.validity import why_invalid
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.store.pair import Pair

__all__ = ["MOST_TRIES", "PAIR", "PAIRED", "PROCESS", "STORED", "disturbance", "run", "until_valid"]

T = TypeVar("T")

MOST_TRIES = 3
"""Times that a process is measured that its evidence makes invalid, before the row is."""

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


def until_valid(
    request: Request, run: Callable[[], Measurement], announce: Callable[[str], None], *, shared_gpu: bool
) -> Measurement:
    """
    One process, measured again while its evidence speaks against it; after the last try it is invalid.

    Args:
        request: what *run* measures, once a call.
        announce: called with a sentence for each try that does not count.
        shared_gpu: other programs may use the GPU.
    """
    tries = 0
    while True:
        measurement = run()
        reason = disturbance(measurement, shared_gpu=shared_gpu)
        if reason is None:
            return measurement
        tries += 1
        announce(f"{request.case.model}: {reason}; try {tries} of {MOST_TRIES} does not count")
        if tries == MOST_TRIES:
            process = measurement.processes[-1]
            process = msgspec.structs.replace(process, outcome="invalid", reason=f"{reason}, in {tries} tries")
            return msgspec.structs.replace(measurement, processes=(process,))


def disturbance(measurement: Measurement, *, shared_gpu: bool) -> str | None:
    """Why its last process may not be trusted, as `why_invalid` says; None if it may."""
    on_gpu = measurement.workload.device == "cuda"
    return why_invalid(measurement.processes[-1], shared=shared_gpu, on_gpu=on_gpu)
