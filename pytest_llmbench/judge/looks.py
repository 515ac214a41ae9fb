"""
Planned looks: how many processes a row gets, and when its verdict is final.

1. Screening: a row is measured by `Plan.screen` processes and judged at `Plan.alpha`.
2. What does not depend on noise is settled there: an outcome, a count, memory, the arithmetic, a row
   without a baseline. So is a row that is unchanged or improved, and one whose plan has no looks.
3. All others, that is, what noise leaves open and what is regressed by a speed alone, are suspects.
   They get fresh processes in `Plan.looks` equal shares. After each share, and never in between, the
   fresh processes so far are judged at `Plan.alpha`, without those of the screening: those were
   chosen for looking bad, and would carry that into the verdict.
4. A look at which the fresh processes are regressed, improved or unchanged, or fail for something
   other than noise, settles the row. After the last look what is still open stays inconclusive,
   which does not fail.

The chance that a row without a difference is called regressed is at most `Plan.error` for the whole
run: every look at every row has an equal share of it (Bonferroni). That holds too where both stages
share the processes of a stored baseline, and so its error. Where a stage measures both sides afresh,
in pairs, the stages are independent, and `Plan.cases` may be the number of suspects instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict

__all__ = ["Plan", "Step", "is_suspect", "next_step"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """
    The most that a row may cost, and how that is spent.

    Raises:
        ValueError: more processes to screen than there may be, or too few for the looks.
    """

    max_processes: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Of one row, screening included; pairs, where pairs are measured."""
    looks: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Judgements of fresh processes, at most; 0 judges the screening and no more."""
    screen: Annotated[int, msgspec.Meta(ge=1)] = 1
    cases: Annotated[int, msgspec.Meta(ge=1)] = 100
    """Rows that share `error`."""
    error: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    """Chance of one false alarm or more in the run."""

    def __post_init__(self) -> None:
        if self.max_processes < self.screen + self.looks:
            raise ValueError(
                f"{self.max_processes} processes are too few: screening takes {self.screen}, and each of "
                f"{self.looks} looks at least one more; allow more processes or plan fewer looks"
            )

    @property
    def alpha(self) -> float:
        """The chance of a false alarm that one look at one row may have."""
        return self.error / self.cases / max(self.looks, 1)

    def fresh(self, look: int) -> int:
        """Processes that look number *look*, from 0, adds."""
        share, rest = divmod(self.max_processes - self.screen, self.looks)
        return share + (look < rest)


class Step(NamedTuple):
    """What comes next for a row: the final verdict, or so many more fresh processes before the next look."""

    verdict: RowVerdict | None
    processes: int = 0


def next_step(plan: Plan, screening: RowVerdict, looks: Sequence[RowVerdict] = ()) -> Step:
    """
    Whether a row is settled.

    Args:
        screening: verdict on the processes of the screening, at `plan.alpha`.
        looks: verdict after each look so far, each on all fresh processes until then, at `plan.alpha`.
    """
    last = looks[-1] if looks else screening
    if not looks and not is_suspect(screening):
        return Step(screening)
    if looks and not last.undecided:
        return Step(_told(last, plan, len(looks)))
    if len(looks) == plan.looks:
        return Step(_told(last, plan, len(looks)) if looks else screening)
    return Step(None, plan.fresh(len(looks)))


def is_suspect(verdict: RowVerdict) -> bool:
    """Whether fresh processes could change the verdict: it is open, or regressed by nothing but a speed."""
    if verdict.undecided:
        return True
    failed = [metric for metric in verdict.metrics if metric.gates and metric.status in ("regressed", "inconclusive")]
    by_noise = bool(failed) and all(metric.p_value is not None for metric in failed)
    return verdict.status == "regressed" and by_noise


def _told(verdict: RowVerdict, plan: Plan, looks: int) -> RowVerdict:
    fresh = sum(plan.fresh(look) for look in range(looks))
    return msgspec.structs.replace(verdict, reason=f"{verdict.reason}; by {fresh} fresh processes")
