"""How two folders of baselines differ, row by row: what a change asks its reviewers to accept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeVar

import msgspec

from pytest_llmbench.judge.comparable import around, differences, environment_changes
from pytest_llmbench.judge.values import typical_value
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.metrics import METRICS, Noise, Tolerance, Value
from pytest_llmbench.schema.text import printable
from pytest_llmbench.store.baseline import BaselineError, BaselineFile, BaselineRow
from pytest_llmbench.store.baselines import Baselines

__all__ = ["Changed", "Changes", "Moved", "changes"]

FORMAT = 1
"""Of the JSON; raised when a program that reads it has to know."""

Kind = Literal["removed", "renamed", "added", "recorded", "changed", "edited"]
"""
`recorded`: recorded again. `changed`: the same record, with other limits, noise or words. `edited`: other values under
the date of before, as no measurement writes them.
"""


class Moved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One metric whose stored value differs; None where a side has none."""

    metric: str
    before: Value | None
    after: Value | None
    change: float | None
    """Relative to before, of the device that moved most; None without a value other than 0 to reckon from."""


class Changed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row that is not the same on both sides."""

    folder: str
    table: str
    row: str
    kind: Kind
    former: str | None = None
    """Table and row before it was renamed."""
    outcomes: tuple[str | None, str | None]
    """Before and after; None where the row is not there."""
    reason: str | None
    """Why it was recorded as it is now; of a removed row, as it was."""
    recorded_at: str | None
    fields: dict[str, tuple[str, str]] = {}
    """What else of case, workload and device differs, before and after."""
    packages: tuple[str, ...] = ()
    moved: tuple[Moved, ...] = ()
    lost: tuple[str, ...] = ()
    """Metrics that were stored, and are no more: nothing will be held against them."""
    tolerances: dict[str, tuple[Tolerance | None, Tolerance | None]] = {}
    noise: dict[str, tuple[Noise | None, Noise | None]] = {}
    processes: tuple[int, int] = (0, 0)
    same_values: bool = False
    """Whether the processes are the same to the last digit, and of the same work."""

    @property
    def name(self) -> str:
        return f"{self.table}[{self.row}]"


class Changes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything in which two folders of baselines differ."""

    format: int = FORMAT
    before: str
    """Which baselines, in words."""
    after: str
    rows: tuple[Changed, ...] = ()
    unreadable: tuple[str, ...] = ()
    """A sentence for each file that cannot be read, whose rows are not compared."""


class _Row(NamedTuple):
    """A row, and where it is."""

    folder: str
    file: BaselineFile
    name: str

    @property
    def stored(self) -> BaselineRow:
        return self.file.rows[self.name]

    @property
    def text(self) -> str:
        return printable(f"{self.file.table}[{self.name}]", lines=False)

    @property
    def work(self) -> tuple[str, Case, str, int]:
        """What was measured, whatever it is called."""
        return self.folder, self.stored.case, self.stored.workload_hash, self.stored.workload_version


_Said = TypeVar("_Said")
_Rows = dict[tuple[str, str, str], _Row]


def changes(before: Baselines, after: Baselines, *, names: tuple[str, str]) -> Changes:
    """
    All rows that differ, by folder, table and name.

    Args:
        before: baselines of before the change.
        after: baselines with it.
        names: of both, in words.
    """
    old, new, unreadable = _differing(before, after)
    found = [_changed(old[key], row) for key, row in new.items() if key in old and not _is_same(old[key], row)]
    removed = {key: row for key, row in old.items() if key not in new}
    for key, row in new.items():
        if key not in old:
            former = _former(row, removed)
            found.append(_changed(removed.pop(former) if former else None, row))
    found += [_changed(row, None) for row in removed.values()]
    rows = sorted(found, key=lambda row: (row.folder, row.table, row.row))
    return Changes(before=names[0], after=names[1], rows=tuple(rows), unreadable=tuple(unreadable))


def _differing(before: Baselines, after: Baselines) -> tuple[_Rows, _Rows, list[str]]:
    """Rows of both sides, of the files that are not the same byte by byte and can be read on both."""
    old: _Rows = {}
    new: _Rows = {}
    unreadable = []
    for folder, table in sorted({*before.tables(), *after.tables()}):
        try:
            if before.same_content(after, folder, table):
                continue
            files = [side.load(folder, table) for side in (before, after)]
        except BaselineError as error:
            unreadable.append(str(error))
            continue
        for file, rows in zip(files, (old, new), strict=True):
            if file is not None:
                rows |= {(folder, table, name): _Row(folder, file, name) for name in file.rows}
    return old, new, unreadable


def _is_same(before: _Row, after: _Row) -> bool:
    environments = [row.file.environments[row.stored.environment] for row in (before, after)]
    return before.stored == after.stored and environments[0] == environments[1]


def _former(row: _Row, removed: Mapping[tuple[str, str, str], _Row]) -> tuple[str, str, str] | None:
    """The removed row of the same work; of several the one of the same values, else none that could be the wrong one."""
    same_work = [key for key, one in removed.items() if one.work == row.work]
    same_values = [key for key in same_work if removed[key].stored.processes == row.stored.processes]
    return same_values[0] if same_values else same_work[0] if len(same_work) == 1 else None


def _changed(before: _Row | None, after: _Row | None) -> Changed:
    here = after or before
    assert here is not None
    told = Changed(
        folder=here.folder,
        table=printable(here.file.table, lines=False),
        row=printable(here.name, lines=False),
        kind="recorded" if before and after else "added" if after else "removed",
        outcomes=(before.stored.outcome if before else None, after.stored.outcome if after else None),
        reason=printable(here.stored.recorded_because),
        recorded_at=printable(here.stored.recorded_at, lines=False),
        processes=(len(before.stored.processes) if before else 0, len(after.stored.processes) if after else 0),
        tolerances=_both(*({**row.stored.tolerances} if row else {} for row in (before, after))),
        noise=_both(*({**row.stored.noise} if row else {} for row in (before, after))),
        moved=tuple(_moves(before, after)),
    )
    if before is None or after is None:
        return told
    then, now = before.file.measurement(before.name), after.file.measurement(after.name)
    packages = (
        *environment_changes(then.environment, now.environment)[0],
        *around(then.environment, now.environment)[0],
    )
    fields = differences(then, now, None)
    if before.stored.workload_version != after.stored.workload_version:
        fields["workload version"] = (before.stored.workload_version, after.stored.workload_version)
    same_values = before.stored.processes == after.stored.processes and not fields
    same_date = before.stored.recorded_at == after.stored.recorded_at
    is_renamed = (before.file.table, before.name) != (after.file.table, after.name)
    return msgspec.structs.replace(
        told,
        kind=_kind(same_values=same_values, same_date=same_date, is_renamed=is_renamed),
        same_values=same_values,
        former=before.text if is_renamed else None,
        fields={
            printable(name, lines=False): (printable(str(old)), printable(str(new)))
            for name, (old, new) in fields.items()
        },
        packages=tuple(printable(str(package), lines=False) for package in packages),
        lost=tuple(one.metric for one in told.moved if one.after is None) if told.outcomes[1] == "ok" else (),
    )


def _kind(*, same_values: bool, same_date: bool, is_renamed: bool) -> Kind:
    if same_date and not same_values:
        return "edited"
    return "renamed" if is_renamed else "changed" if same_date else "recorded"


def _both(before: Mapping[str, _Said], after: Mapping[str, _Said]) -> dict[str, tuple[_Said | None, _Said | None]]:
    """Entries that differ, by metric."""
    pairs = {name: (before.get(name), after.get(name)) for name in {**before, **after}}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _moves(before: _Row | None, after: _Row | None) -> Iterator[Moved]:
    sides = [row.file.measurement(row.name) if row else None for row in (before, after)]
    for name in METRICS:
        old, new = (typical_value(side, name) if side else None for side in sides)
        if old != new:
            yield Moved(metric=name, before=old, after=new, change=_relative(old, new))


def _relative(before: Value | None, after: Value | None) -> float | None:
    pairs = list(zip(_parts(before), _parts(after), strict=False))
    if not pairs or len(_parts(before)) != len(_parts(after)) or not all(old for old, _ in pairs):
        return None
    return max((new / old - 1 for old, new in pairs), key=abs)


def _parts(value: Value | None) -> tuple[float, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)
