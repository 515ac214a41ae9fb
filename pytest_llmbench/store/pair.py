"""One process of each side, measured one right after the other, and what many of them come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from pytest_llmbench.schema.measurement import Measurement

__all__ = ["SIDES", "Pair", "Side", "first_side", "merged"]

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement of one process on each side."""

    first: Side
    """Who measured first."""
    a: Measurement
    b: Measurement

    @property
    def outcomes(self) -> tuple[str, str]:
        return self.a.outcome, self.b.outcome

    @property
    def is_ok(self) -> bool:
        return self.outcomes == ("ok", "ok")


def first_side(number: int) -> Side:
    """Who goes first in pair *number*, from 0: A B, B A, A B, ..., so that a drift meets both alike."""
    return "a" if number % 2 == 0 else "b"


def merged(pairs: Iterable[Pair]) -> tuple[Measurement, Measurement]:
    """
    The measurements of both sides over all pairs, process i of one beside process i of the other.

    Pairs of which a process failed come last, so that a side that failed has the outcome of its failure.

    Raises:
        ValueError: there is no pair.
    """
    ordered = sorted(pairs, key=lambda pair: not pair.is_ok)
    if not ordered:
        raise ValueError("no pair was measured")
    return _joined([pair.a for pair in ordered]), _joined([pair.b for pair in ordered])


def _joined(taken: list[Measurement]) -> Measurement:
    taken.sort(key=lambda one: one.outcome != "ok")
    last = next((one for one in reversed(taken) if one.environment is not None), taken[-1])
    processes = tuple(process for one in taken for process in one.processes)
    return msgspec.structs.replace(taken[-1], environment=last.environment, processes=processes)
