"""What holding two sides against each other gave: a verdict per case, and which packages differ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.verdict import RowVerdict, Status
from pytest_llmbench.schema.environment import (
    PACKAGES,
    Environment,
    Installed,
    Origin,
    PackageChange,
    Software,
    changes,
    version_text,
)
from pytest_llmbench.schema.measurement import Measurement, Outcome
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.units import counted
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.store.results import Result, latest, read_results

__all__ = [
    "Compared",
    "Comparison",
    "FailOn",
    "compare_files",
    "device_name",
    "fails",
    "is_code_known",
    "package_diff",
]

Rows = dict[tuple[str, str], Result]


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


def compare_files(
    a: Path, b: Path, tolerances: Mapping[str, Tolerance], left_out: Callable[[str], object]
) -> Comparison:
    """
    *b* against *a*, for the rows of the same table and name; of several results for a row the last counts.

    Args:
        left_out: told of each line that is no result.

    Raises:
        ResultError: a file cannot be read, or has no result.
    """
    before, after = _rows(a, left_out), _rows(b, left_out)
    rows = tuple(
        Compared.of(
            name,
            judge(after[name].measurement, Reference(measurement=then.measurement), tolerances),
            then.measurement,
            after[name].measurement,
        )
        for name, then in before.items()
        if name in after
    )
    installed = _installed(before), _installed(after)
    differing, same = package_diff(*installed)
    return Comparison(
        a=str(a),
        b=str(b),
        measured_on=" and ".join(dict.fromkeys(map(device_name, (*_environments(before), *_environments(after))))),
        changes=differing,
        num_unchanged=same,
        code_known=is_code_known(*installed),
        rows=rows,
        one_sided=tuple(f"{table}[{row}]" for table, row in before.keys() ^ after.keys()),
        left_out=(*_only("A", before, after), *_only("B", after, before)),
    )


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


def device_name(environment: Environment) -> str:
    """The device as a reader knows it: of a CPU its model."""
    return environment.cpu if environment.device == "cpu" else environment.device


def fails(comparison: Comparison, on: Collection[FailOn]) -> bool:
    """Whether a verdict is among those at which the user wants a command to fail; a missing row is never measured."""
    if comparison.one_sided and not {FailOn.UNMEASURED, FailOn.INCONCLUSIVE}.isdisjoint(on):
        return True
    failing = {status for one in on for status in _FAILING[one]}
    return any(row.verdict.status in failing for row in comparison.rows)


def _unavailable(a: Measurement, b: Measurement) -> str | None:
    """Which side lacks what the case needs."""
    told: dict[str | None, list[str]] = {}
    for side, one in (("A", a), ("B", b)):
        if one.outcome == "unavailable":
            told.setdefault(one.reason, []).append(side)
    return "; ".join(f"unavailable in {' and '.join(sides)}: {reason}" for reason, sides in told.items()) or None


def _rows(path: Path, left_out: Callable[[str], object]) -> Rows:
    found = {(result.table, result.row): result for result in latest(read_results(path, left_out))}
    if not found:
        raise ResultError(f"{path}: there is no result in it")
    return found


def _installed(rows: Rows) -> Software:
    """Versions of what can move a training step; of a package with several, all of them."""
    found: dict[str, dict[tuple[str, str | None], tuple[str, Origin | None]]] = {}
    for environment in _environments(rows):
        system = {"python": environment.python, "driver": environment.driver, "cuda": environment.cuda}
        for name, version in (system | environment.packages).items():
            if version is not None and name != "pytest-llmbench":
                origin = (environment.origins or {}).get(name)
                found.setdefault(name, {})[version, origin.digest if origin else None] = (version, origin)
    several = {name: [version_text(*one) for one in code.values()] for name, code in found.items() if len(code) > 1}
    alone = {name: next(iter(code.values())) for name, code in found.items() if len(code) == 1}
    versions = {name: version for name, (version, _) in alone.items()}
    is_known = all(environment.origins is not None for environment in _environments(rows))
    return Software(
        versions | {name: " and ".join(dict.fromkeys(told)) for name, told in several.items()},
        {name: origin for name, (_, origin) in alone.items() if origin is not None} if is_known else None,
    )


def _environments(rows: Rows) -> list[Environment]:
    taken = [result.measurement.environment for result in rows.values()]
    return [environment for environment in taken if environment is not None]


def _only(side: str, rows: Rows, other: Rows) -> list[str]:
    names = [f"{table}[{row}]" for table, row in rows if (table, row) not in other]
    return [f"only in {side}, {counted(len(names), 'row')}: {', '.join(names)}"] if names else []
