"""What holding two sides against each other gave: a verdict per case, and which packages differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum

import msgspec

from pytest_llmbench.judge.suite import global_shift
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.schema.environment import PACKAGES, Installed, PackageChange, changes
from pytest_llmbench.schema.measurement import Measurement, Outcome
from pytest_llmbench.schema.metrics import METRICS, Metric
from pytest_llmbench.schema.symbols import ORDER
from pytest_llmbench.schema.units import percent

__all__ = ["Compared", "Comparison", "FailOn", "fails", "is_code_known", "package_diff", "summary"]


class FailOn(StrEnum):
    """At which verdicts a command fails; a row that regressed or is unmeasured is among all of them."""

    REGRESSED = "regressed"
    MOVED = "moved"
    UNDECIDED = "undecided"
    UNMEASURED = "unmeasured"
    INCONCLUSIVE = "inconclusive"
    """The last two together."""


_NEVER_GREEN: tuple[Status, ...] = ("regressed", "unmeasured")
_NOT_HELD: tuple[Status, ...] = ("not comparable", "no baseline")
_FAILING: dict[FailOn, tuple[Status, ...]] = {
    FailOn.REGRESSED: _NEVER_GREEN,
    FailOn.MOVED: (*_NEVER_GREEN, "improved"),
    FailOn.UNDECIDED: (*_NEVER_GREEN, "undecided"),
    FailOn.UNMEASURED: (*_NEVER_GREEN, *_NOT_HELD),
    FailOn.INCONCLUSIVE: (*_NEVER_GREEN, *_NOT_HELD, "undecided"),
}


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One case on both sides."""

    table: str
    row: str
    verdict: RowVerdict
    a: Outcome
    b: Outcome
    pairs: int | None = None
    """Pairs of processes that the verdict is about; None if the processes do not belong together."""

    @classmethod
    def of(
        cls, name: tuple[str, str], verdict: RowVerdict, a: Measurement, b: Measurement, pairs: int | None = None
    ) -> Compared:
        """A table's row, with the outcomes of two measurements."""
        if (lacking := _unavailable(a, b)) is not None:
            status: Status = "no baseline" if a.outcome == "unavailable" else "unmeasured"
            verdict = msgspec.structs.replace(verdict, status=status, reason=lacking)
        return cls(table=name[0], row=name[1], verdict=verdict, a=a.outcome, b=b.outcome, pairs=pairs)

    @property
    def name(self) -> str:
        return f"{self.table}[{self.row}]"

    @property
    def told(self) -> str:
        """The verdict in the word or two that a table has room for."""
        if "unavailable" in (self.a, self.b):
            return "unavailable"
        return self.verdict.status

    @property
    def is_measured(self) -> bool:
        """Whether both sides said what the case needs, and be it more memory than there is."""
        return {self.a, self.b} <= {"ok", "oom"}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a report shows."""

    a: str
    """As the user named it."""
    b: str
    measured_on: str = ""
    """Device, scale and samples, as a reader should know them."""
    changes: tuple[PackageChange, ...]
    num_unchanged: int
    """Packages that are the same on both sides, as far as that is known."""
    code_known: bool = True
    """Whether the files of those that can move a training step are known on both sides."""
    rows: tuple[Compared, ...]
    one_sided: tuple[str, ...] = ()
    """Names of rows that only one side has."""
    left_out: tuple[str, ...] = ()
    """Sentences on rows that are not there, and why."""

    @property
    def same(self) -> str:
        """What is said of the packages that do not differ."""
        return "are the same" if self.code_known else "have the same version"


def package_diff(a: Installed, b: Installed) -> tuple[tuple[PackageChange, ...], int]:
    """What differs, those first that can move a training step, and how many packages do not."""
    first = ("driver", "cuda", "python", *PACKAGES)
    names = sorted(
        {*a.packages, *b.packages}, key=lambda name: (first.index(name) if name in first else len(first), name)
    )
    found = changes(names, a, b)
    return found, len(names) - len(found)


def is_code_known(a: Installed, b: Installed) -> bool:
    """Whether somebody looked at the files of both sides, and not at their versions only."""
    return a.origins is not None and b.origins is not None


def summary(rows: Collection[Compared]) -> list[str]:
    """What the rows come to: how many of which verdict, how far they moved together."""
    counts = Counter(row.told for row in rows)
    told = ", ".join(f"{counts[word]} {word}" for word in (*ORDER, "unavailable") if counts[word])
    sentences = [told or "no case was measured"]
    if moves := list(_moves(rows)):
        sentences.append(f"geometric mean over the rows: {', '.join(moves)}")
    for metric in _summed_up():
        shift = global_shift((row.verdict for row in rows), metric.name)
        if shift is not None and shift.matters:
            sentences.append(
                f"{shift.rows} rows moved together: {metric.words} {percent(shift.change)} "
                f"({percent(shift.interval[0])} to {percent(shift.interval[1])})"
            )
    return sentences


def fails(comparison: Comparison, on: Collection[FailOn]) -> bool:
    """Whether a verdict is among those at which the user wants a command to fail; a missing row is never measured."""
    if comparison.one_sided and not {FailOn.UNMEASURED, FailOn.INCONCLUSIVE}.isdisjoint(on):
        return True
    failing = {status for one in on for status in _FAILING[one]}
    return any(row.verdict.status in failing for row in comparison.rows)


def _moves(rows: Iterable[Compared]) -> Iterator[str]:
    judged: dict[str, list[MetricVerdict]] = {}
    for row in rows:
        for verdict in row.verdict.metrics:
            judged.setdefault(verdict.metric, []).append(verdict)
    for metric in _summed_up():
        changes = [one.change for one in judged.get(metric.name, ()) if one.change is not None and one.change > -1]
        if changes:
            yield f"{metric.words} {percent(math.expm1(math.fsum(map(math.log1p, changes)) / len(changes)))}"


def _summed_up() -> list[Metric]:
    return [metric for metric in METRICS.values() if metric.sums_up]


def _unavailable(a: Measurement, b: Measurement) -> str | None:
    """Which side lacks what the case needs."""
    told: dict[str | None, list[str]] = {}
    for side, one in (("A", a), ("B", b)):
        if one.outcome == "unavailable":
            told.setdefault(one.reason, []).append(side)
    return "; ".join(f"unavailable in {' and '.join(sides)}: {reason}" for reason, sides in told.items()) or None
