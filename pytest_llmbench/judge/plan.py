"""
The plan of a trial: how many observations a row gets, and when its verdict is final.

An observation is one valid process against a stored baseline, or one pair of processes in turn. `settle` is a
pure function of the observations, so that a trial that was broken off goes on as if it had not been.

1. The first `Plan.screen` observations are judged. A row that is unchanged is settled.
2. A row that may be worse by noise gets more observations, in `Plan.looks` equal shares. After each share, and
   never in between, all observations so far are judged.
3. A count, a peak of memory or a loss repeats itself or does not. Pairs confirm it by one more pair.
4. The first look that is not open settles the row. A row that is open after the last look stays `undecided`.

Every look at every row is judged at `judge.decision.ALPHA`, whichever rows were selected beside it. A row has at
most two looks, so that its chance of a false alarm is at most 0.01 %, and that of a night of 100 rows 1 %
(Bonferroni). The choice of suspects only takes looks away, and so cannot raise it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, NamedTuple, TypeVar

import msgspec

from pytest_llmbench.judge.decision import LOOKS
from pytest_llmbench.judge.verdict import RowVerdict, Status
from pytest_llmbench.schema.units import counted

__all__ = ["DOUBTED", "Kind", "Plan", "Settled", "Wanted", "is_suspect", "settle", "so_far"]

T = TypeVar("T")

DOUBTED = "the first looked"
"""Words in the reason of a verdict that more observations have overturned."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """
    The most that a row may cost, and how it is spent.

    Raises:
        ValueError: more observations to screen than there may be, or too few for the looks.
    """

    max_processes: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Observations of one row, those of the screening included."""
    looks: Annotated[int, msgspec.Meta(ge=0, le=LOOKS)] = 0
    """Judgements after the screening, at most; 0 judges the screening and no more."""
    screen: Annotated[int, msgspec.Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        if self.max_processes < self.screen + self.looks:
            raise ValueError(
                f"{self.max_processes} processes are too few: screening takes {self.screen}, and each of "
                f"{self.looks} looks at least one more; allow more processes or plan fewer looks"
            )

    def share(self, look: int) -> int:
        """Observations that look number *look*, from 0, adds."""
        share, rest = divmod(self.max_processes - self.screen, self.looks)
        return share + (look < rest)


class Kind(NamedTuple, Generic[T]):
    """How observations of one kind behave."""

    word: str
    """One observation, in a sentence: `process` or `pair`."""
    outcomes: Callable[[T], Sequence[str]]
    """Outcomes of the processes of one observation."""
    failures: int
    """Observations that fail before the row does."""
    repeats: int
    """Observations that confirm a count; 0 if one screening is enough."""


class Wanted(msgspec.Struct, frozen=True):
    """More observations are needed."""

    count: int
    confirms: bool
    """Whether they are of a suspect."""


class Settled(NamedTuple, Generic[T]):
    """The row is over."""

    verdict: RowVerdict
    taken: tuple[T, ...]
    """The observations that the verdict is about."""


def settle(
    plan: Plan, kind: Kind[T], taken: Sequence[T], judge: Callable[[Sequence[T]], RowVerdict]
) -> Settled[T] | Wanted:
    """
    What to do about a row of which *taken* was observed, in its order.

    Args:
        judge: the verdict on some of the observations, at `judge.decision.ALPHA`.
    """
    good = [one for one in taken if set(kind.outcomes(one)) == {"ok"}]
    failed = [one for one in taken if set(kind.outcomes(one)) != {"ok"}]
    for_good = any({"unavailable", "invalid"}.intersection(kind.outcomes(one)) for one in failed)
    if for_good or len(failed) >= kind.failures:
        return _over(judge, [*good, *failed])
    if len(good) < plan.screen:
        return Wanted(plan.screen - len(good), confirms=False)
    screening = _over(judge, good[: plan.screen])
    if not plan.looks or not is_suspect(screening.verdict, repeats=kind.repeats):
        return screening
    count, looked = plan.screen, screening
    for look in range(plan.looks):
        count += plan.share(look) if _by_noise(screening.verdict) else kind.repeats
        if len(good) < count:
            return Wanted(count - len(good), confirms=True)
        looked = _looked(judge, screening, good[:count], kind.word)
        if looked.verdict.status != "undecided":
            break
    return looked


def so_far(
    kind: Kind[T], taken: Sequence[T], judge: Callable[[Sequence[T]], RowVerdict], why: str
) -> Settled[T] | None:
    """
    What the good observations of a row say that is not settled; None without one.

    It is undecided, whatever it looks like so far; what is unmeasured stays so.

    Args:
        why: the reason why there are no more.
    """
    good = [one for one in taken if set(kind.outcomes(one)) == {"ok"}]
    if not good:
        return None
    found = _over(judge, good)
    reason = f"{found.verdict.status} so far ({found.verdict.reason}), and {why}"
    status: Status = "unmeasured" if found.verdict.status == "unmeasured" else "undecided"
    return found._replace(verdict=msgspec.structs.replace(found.verdict, status=status, reason=reason))


def is_suspect(verdict: RowVerdict, *, repeats: int = 0) -> bool:
    """
    Whether more observations could change the verdict of a screening.

    They could if noise leaves it open, or if a speed alone made it regressed. Where counts are repeated,
    every move is a suspect.
    """
    if verdict.status == "undecided":
        return True
    if repeats:
        return verdict.status in ("regressed", "improved")
    return verdict.status == "regressed" and _by_noise(verdict)


def _by_noise(verdict: RowVerdict) -> bool:
    """Whether the verdict stands or falls with speeds, which other processes may not repeat."""
    if verdict.status == "undecided":
        return True
    grave = ("improved",) if verdict.status == "improved" else ("regressed", "unmeasured")
    moved = [one for one in verdict.metrics if one.gates and one.status in grave]
    return bool(moved) and all(one.p_value is not None for one in moved)


def _over(judge: Callable[[Sequence[T]], RowVerdict], taken: Sequence[T]) -> Settled[T]:
    return Settled(judge(taken), tuple(taken))


def _looked(
    judge: Callable[[Sequence[T]], RowVerdict], screening: Settled[T], taken: Sequence[T], word: str
) -> Settled[T]:
    """The verdict on all of *taken*; what the screening saw without noise must be seen in the others alone, too."""
    more = len(taken) - len(screening.taken)
    told = counted(more, f"more {word}")
    if not _by_noise(screening.verdict):
        before, alone = screening.verdict.status, _over(judge, taken[-more:])
        if alone.verdict.status != before:
            return _with_reason(alone, f"{DOUBTED} {before}, {told} did not")
    return _with_reason(_over(judge, taken), f"with {told}")


def _with_reason(settled: Settled[T], told: str) -> Settled[T]:
    verdict = msgspec.structs.replace(settled.verdict, reason=f"{settled.verdict.reason}; {told}")
    return settled._replace(verdict=verdict)
