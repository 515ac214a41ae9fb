"""
The file of a comparison: what was asked for on its first line, then one pair a line, on disk as it comes.

A comparison that is killed goes on from it; see `judge.plan`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec

from pytest_llmbench.judge.plan import Plan
from pytest_llmbench.schema.environment import Origin
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.stack import Source
from pytest_llmbench.store.lines import LineError, LineFile, ResultError, decoded, read_lines
from pytest_llmbench.store.pair import Pair
from pytest_llmbench.tables.selection import Selected

__all__ = ["FORMAT", "Asked", "Implied", "Journal", "Named", "Note", "Taken"]

FORMAT = 1


class Named(msgspec.Struct, frozen=True):
    """An environment as it was named and as it was found."""

    name: str
    packages: dict[str, str]
    """Normalised distribution name to version, Python included."""
    origins: dict[str, Origin] | None = None
    """Which code they are; None in a file of before anybody looked."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="asked"):
    """What a comparison was asked for; enough to go on with it."""

    format: int = FORMAT
    command: Literal["ab", "bisect"]
    a: Named
    b: Named
    source: Source
    selected: Annotated[tuple[Selected, ...], msgspec.Meta(min_length=1)]
    workload: Workload
    plan: Plan
    tolerances: dict[str, Tolerance] = {}
    path: tuple[str, ...] = ()
    """Folders with the user's own modules."""
    timeout_seconds: float
    shared_gpu: bool = False
    """Whether other programs may use the GPUs."""
    metric: str | None = None
    """Metric that a bisection follows, where the user named it."""
    repository: str | None = None
    """Folder or URL, without credentials, of the package whose commits a bisection goes through."""


class Taken(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="pair"):
    """A pair that was measured."""

    case: str
    """`Selected.name`; for a mixture of a bisection, its name."""
    pair: Pair


class Note(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="note"):
    """Why a case, or a mixture, was not measured."""

    case: str
    why: str


class Implied(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="implied"):
    """Dependencies between the changed packages of a bisection; its environments may be gone later."""

    implied: dict[str, frozenset[str]]
    """Packages that have to change with each of them, itself included."""
    needs: dict[str, frozenset[str]]
    """Packages among the others that the new version of each needs."""


Line = Asked | Taken | Note | Implied
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_encoder = msgspec.json.Encoder()


class Journal:
    """
    What was asked for and measured so far, and where to write what comes.

    Attributes:
        asked: the first line.
        implied: of a bisection, once it is known.
    """

    def __init__(self, path: Path | None, asked: Asked, file: LineFile | None, lines: list[Line]) -> None:
        self.path = path
        self.asked = asked
        self._file = file
        self._pairs: dict[str, list[Pair]] = {}
        self._notes: dict[str, str] = {}
        self.implied: Implied | None = None
        for line in lines:
            self._take(line)

    @classmethod
    def begin(cls, path: Path | None, asked: Asked) -> Self:
        """
        Start a new file, or none.

        Raises:
            ResultError: the file is there already, or cannot be written.
        """
        if path is None:
            return cls(None, asked, None, [])
        # Not "x", which would refuse /dev/null.
        if path.is_file() and path.stat().st_size:
            raise ResultError(f"{path} is there already; go on with --resume {path}, or name another file")
        file = LineFile(path, alone=True)
        try:
            file.write(_encoder.encode(asked))
        except ResultError:
            file.close()
            raise
        return cls(path, asked, file, [])

    @classmethod
    def resume(cls, path: Path) -> Self:
        """
        Read a file and open it for more; half a line that a killed run has left is cut off.

        Raises:
            ResultError: it is not the file of a comparison.
        """
        asked, lines = _read(path)
        return cls(path, asked, LineFile(path, alone=True), lines)

    @classmethod
    def read(cls, path: Path) -> Self:
        """
        Read what a file has so far, also while another run writes to it. What is added is not written down.

        Raises:
            ResultError: it is not the file of a comparison, or cannot be read.
        """
        asked, lines = _read(path)
        return cls(path, asked, None, lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def pairs(self, case: str) -> list[Pair]:
        """Pairs of a case, in the order in which they were measured."""
        return self._pairs.get(case, [])

    def note(self, case: str) -> str | None:
        """Why a case was not measured, if it was not."""
        return self._notes.get(case)

    def add(self, line: Taken | Note | Implied) -> None:
        """
        Write a line down.

        Raises:
            ResultError: it could not be written.
        """
        self._take(line)
        if self._file is not None:
            self._file.write(_encoder.encode(line))

    def _take(self, line: Line) -> None:
        match line:
            case Taken(case=case, pair=pair):
                self._pairs.setdefault(case, []).append(pair)
            case Note(case=case, why=why):
                self._notes[case] = why
            case Implied():
                self.implied = line
            case Asked():
                pass


def _read(path: Path) -> tuple[Asked, list[Line]]:
    """First line of a file, and all that follow."""
    lines = list(_decoded(path))
    asked = lines[0] if lines else None
    if not isinstance(asked, Asked):
        raise ResultError(f"{path} does not begin as the results of llmbench ab or bisect do")
    return asked, lines[1:]


def _decoded(path: Path) -> Iterator[Line]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            try:
                yield decoded(line, _decoder.decode)
            except LineError as error:
                raise ResultError(f"{path}, line {number}: is not of llmbench ab or bisect: {error}") from None
