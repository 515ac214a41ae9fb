"""
The format of a baseline file: one table of rows, each a whole measurement with its raw values.

Decoded strictly, encoded so that recording one row changes the lines of that row only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec

from pytest_llmbench.judge.compare import Reference
from pytest_llmbench.schema.case import LATER_FIELDS, MODELS, Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.metrics import METRICS, Noise, Tolerance, Value
from pytest_llmbench.schema.strict import Place, dotted, first_flaw, parse
from pytest_llmbench.schema.text import hint_at, printable, printable_json
from pytest_llmbench.schema.workload import Workload, workload_hash, workload_version
from pytest_llmbench.tables.renamed import row_of_today

__all__ = [
    "FORMAT",
    "BaselineError",
    "BaselineFile",
    "BaselineRow",
    "decode",
    "encode",
    "environment_key",
]

FORMAT = 1
"""
Raised whenever an older version could not read what this one writes, with an entry in `_MIGRATIONS`.

1. The first.
"""

MOST_MIB = 64
"""A thousand rows of several processes take less; what is larger is neither written nor read."""
MOST_VALUES = 1_000_000
"""Commas of a file, which are counted before it is parsed: a thousand rows of three processes have fewer than half."""

_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Steps from the plain value of a file in this format to that of the next."""

_PLAINEST = Case(model=MODELS[0])
_T = TypeVar("_T")
_RESTORE = "restore the file from version control"
_RECORD = "restore the row from version control or record it again with --llmbench-update"


class BaselineError(ValueError):
    """A baseline that cannot be read or written; the message names file, row and field."""

    def __init__(self, sentence: str, path: Path, place: Place = ()) -> None:
        self.path = path
        self.row: str | None = None
        if place and place[0] == "rows" and len(place) > 1:
            self.row, place = str(place[1]), place[2:]
        self.field = dotted(place) or None
        row = f", row {self.row!r}" if self.row is not None else ""
        field = f", field {self.field}" if self.field else ""
        super().__init__(printable(f"{path}{row}{field}: {sentence}"))


class BaselineRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stored measurement."""

    case: Case
    workload: Workload
    workload_hash: str
    workload_version: int
    """`workload.workload_version` when it was measured; the hash can be checked under the same one only."""
    outcome: Literal["ok", "oom"]
    reason: str | None
    environment: str
    """Key in `BaselineFile.environments`."""
    recorded_at: str
    """When it was measured: UTC, ISO 8601, to the second."""
    recorded_because: str
    tolerances: dict[str, Tolerance] = {}
    """By metric; written by hand, kept when the row is recorded again."""
    noise: dict[str, Noise] = {}
    """By statistical metric; written by `llmbench calibrate`, kept when the row is recorded again."""
    processes: Annotated[tuple[Process, ...], msgspec.Meta(min_length=1)]

    @classmethod
    def of(
        cls,
        measurement: Measurement,
        *,
        because: str,
        tolerances: Mapping[str, Tolerance] | None = None,
        noise: Mapping[str, Noise] | None = None,
    ) -> Self:
        """
        Raises:
            ValueError: what is no baseline: outcome other than `ok` and `oom`, or no environment.
        """
        if measurement.environment is None or measurement.outcome not in ("ok", "oom"):
            raise ValueError(
                f"a measurement that ended {measurement.outcome!r} in {measurement.environment} is no baseline"
            )
        return cls(
            case=measurement.case,
            workload=measurement.workload,
            workload_hash=measurement.workload_hash,
            workload_version=workload_version(measurement.case),
            outcome=measurement.outcome,
            reason=measurement.reason,
            environment=environment_key(measurement.environment),
            recorded_at=measurement.measured_at,
            recorded_because=because,
            tolerances=dict(tolerances or {}),
            noise=dict(noise or {}),
            processes=measurement.processes,
        )

    def measurement(self, environment: Environment) -> Measurement:
        """Measurement that `of` was given, with the environment that the row's file holds for it."""
        return Measurement(
            case=self.case,
            workload=self.workload,
            environment=environment,
            processes=self.processes,
            measured_at=self.recorded_at,
        )


class BaselineFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All stored rows of one table on one device."""

    format: int = FORMAT
    table: str
    environments: dict[str, Environment] = {}
    """By `environment_key`; rows that were recorded in the same one share it."""
    rows: dict[str, BaselineRow] = {}
    """By the row's id within the table."""

    def reference(self, name: str) -> Reference | None:
        """The row as the judge takes it, or None if it is not stored."""
        row = self.rows.get(name)
        if row is None:
            return None
        return Reference(
            measurement=self.measurement(name),
            tolerances=row.tolerances,
            noise=row.noise,
            workload_version=row.workload_version,
        )

    def measurement(self, name: str) -> Measurement:
        """
        The stored measurement of a row, its texts made printable: they are going to be shown.

        Raises:
            KeyError: no such row.
        """
        row = self.rows[name]
        measurement = row.measurement(self.environments[row.environment])
        stored = msgspec.json.encode(measurement)
        shown = printable_json(stored)
        return measurement if shown == stored else msgspec.json.decode(shown, type=Measurement)

    def with_row(self, name: str, row: BaselineRow, environment: Environment) -> Self:
        """A copy with *row* added or replaced, without the environments that no row needs any more."""
        rows = dict(sorted({**self.rows, name: row}.items()))
        environments = {**self.environments, row.environment: environment}
        needed = {stored.environment for stored in rows.values()}
        kept = {key: value for key, value in environments.items() if key in needed}
        return msgspec.structs.replace(self, rows=rows, environments=kept)


def environment_key(environment: Environment) -> str:
    """Eight hexadecimal digits of the environment's content."""
    return hashlib.sha256(msgspec.json.encode(environment, order="deterministic")).hexdigest()[:8]


def encode(file: BaselineFile, *, decoded: Set[str] = frozenset()) -> bytes:
    """
    Rows and environments by name, fields as declared, indented, floats in their shortest exact form.

    Args:
        decoded: rows that are as `decode` gave them, which need no second look: a long file takes a
            tenth of the time so.

    Raises:
        BaselineError: a value that `decode` would refuse, so that nothing unreadable is ever stored.
    """
    path = Path(f"{file.table}.json")
    new = {name: row for name, row in file.rows.items() if name not in decoded}
    unproven = msgspec.structs.replace(file, rows=new)
    if flaw := first_flaw(msgspec.to_builtins(unproven)):
        raise BaselineError(flaw.sentence, path, flaw.place)
    decode(_text(unproven), path)
    text = _text(file)
    if len(text) > MOST_MIB * 2**20 or _has_too_many_values(text):
        raise BaselineError("would become larger than what is read; spread its tests over more tables", path)
    return text


def _has_too_many_values(data: bytes) -> bool:
    return data.count(b",") > MOST_VALUES


def _text(file: BaselineFile) -> bytes:
    ordered = msgspec.structs.replace(
        file, environments=dict(sorted(file.environments.items())), rows=dict(sorted(file.rows.items()))
    )
    plain = msgspec.to_builtins(ordered)
    for name, row in ordered.rows.items():
        for field in LATER_FIELDS:
            if getattr(row.case, field) == getattr(_PLAINEST, field):
                del plain["rows"][name]["case"][field]
        if row.workload.memory_bytes is None:  # newer than the files, too
            del plain["rows"][name]["workload"]["memory_bytes"]
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def decode(data: bytes, path: Path) -> BaselineFile:
    """
    Args:
        path: where *data* comes from; only named in errors.

    Raises:
        BaselineError: anything but a baseline file that this version understands.
    """
    if _has_too_many_values(data):
        raise BaselineError(f"has more than {MOST_VALUES} values, and no baseline has; {_RESTORE}", path)
    try:
        tree = parse(data)
    except ValueError as error:
        raise BaselineError(f"is not whole JSON ({error}); {_RESTORE}", path) from None
    if flaw := first_flaw(tree):
        raise BaselineError(f"{flaw.sentence}; {_RESTORE}", path, flaw.place)
    shell = _convert(_current(tree, path), _Shell, path)
    environments = {
        key: _convert(raw, Environment, path, ("environments", key)) for key, raw in shell.environments.items()
    }
    for key, environment in environments.items():
        if key != environment_key(environment):
            raise BaselineError(f"was edited: its key does not match; {_RESTORE}", path, ("environments", key))
    rows = {name: _row(raw, environments, path, ("rows", name)) for name, raw in shell.rows.items()}
    return BaselineFile(table=shell.table, environments=environments, rows=_renamed(shell.table, rows))


def _renamed(table: str, rows: Mapping[str, BaselineRow]) -> dict[str, BaselineRow]:
    """Rows by their names of today; the one that is stored under that name counts."""
    named = {name: row_of_today(table, name) for name in rows}
    return {today: rows[name] for name, today in named.items() if today == name or today not in rows}


class _Shell(msgspec.Struct, forbid_unknown_fields=True):
    """A file whose entries are still plain, so that an error can name its entry."""

    format: int
    table: str
    environments: dict[str, Any]
    rows: dict[str, Any]


class _EditedProcess(msgspec.Struct):
    metrics: dict[str, Any] = {}


class _Edited(msgspec.Struct):
    """Check what people edit in a row, still plain: msgspec would not name the metric in its error."""

    processes: list[_EditedProcess]
    tolerances: dict[str, Any] = {}
    noise: dict[str, Any] = {}

    def by_metric(self) -> Iterator[tuple[Place, Any, Any]]:
        """Place within the row, value, and the type it must have."""
        for name, value in self.tolerances.items():
            yield ("tolerances", name), value, Tolerance
        for name, value in self.noise.items():
            yield ("noise", name), value, Noise
        for index, process in enumerate(self.processes):
            for name, value in process.metrics.items():
                yield ("processes", index, "metrics", name), value, Value


def _row(raw: Any, environments: Mapping[str, Environment], path: Path, place: Place) -> BaselineRow:
    for inner, value, kind in _convert(raw, _Edited, path, place).by_metric():
        if (name := str(inner[-1])) not in METRICS:
            hint = hint_at(name, METRICS, "or is the package missing that adds it?")
            raise BaselineError(f"unknown metric {name!r}; {hint}", path, (*place, *inner))
        _convert(value, kind, path, (*place, *inner))
        if kind is Noise and METRICS[name].gate != "statistical":
            raise BaselineError(f"is not judged by its noise; {_RECORD}", path, (*place, *inner))
    row = _convert(raw, BaselineRow, path, place)
    current = row.workload_version == workload_version(row.case)
    if current and row.workload_hash != workload_hash(row.case, row.workload):
        raise BaselineError(f"does not match the row's case and workload; {_RECORD}", path, (*place, "workload_hash"))
    if (row.outcome, row.reason) != (row.processes[-1].outcome, row.processes[-1].reason):
        raise BaselineError(f"does not match the row's last process; {_RECORD}", path, (*place, "outcome"))
    for index, process in enumerate(row.processes):
        if process.outcome == "ok" and not process.metrics:
            empty = (*place, "processes", index, "metrics")
            raise BaselineError(f"is empty, so nothing can be held against it; {_RECORD}", path, empty)
    if row.environment not in environments:
        raise BaselineError(
            f"there is no environment {row.environment!r} in this file; {_RECORD}", path, (*place, "environment")
        )
    return row


def _current(tree: Any, path: Path) -> Any:
    """The plain value of a file in the format of today."""
    found = tree.get("format") if isinstance(tree, dict) else None
    if type(found) is not int:
        raise BaselineError(f"is not a baseline file: it says no format; {_RESTORE}", path)
    if found > FORMAT:
        raise BaselineError(
            f"has format {found}, this pytest-llmbench reads up to {FORMAT}; upgrade pytest-llmbench", path, ("format",)
        )
    while found < FORMAT:
        if found not in _MIGRATIONS:
            raise BaselineError(f"has format {found}, which never was; {_RESTORE}", path, ("format",))
        tree = _MIGRATIONS[found](tree)
        found += 1
    return tree


def _convert(raw: Any, kind: type[_T], path: Path, place: Place = ()) -> _T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        sentence, _, inner = str(error).partition(" - at `$")
        field = inner.rstrip("`").removeprefix(".")
        raise BaselineError(sentence, path, (*place, field) if field else place) from None
