"""
The file of a comparison: what was asked for on its first line, then one pair a line, on disk as it comes.

A comparison that is killed goes on from it; see `judge.plan`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Literal, Self

import msgspec

from pytest_llmbench.judge.plan import Plan
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.strict import dotted, flaw_of_decoded
from pytest_llmbench.schema.text import printable_json
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.stack import Source
from pytest_llmbench.store.files import read_file
from pytest_llmbench.store.pair import Pair
from pytest_llmbench.tables.selection import Selected

__all__ = ["FORMAT", "Asked", "Implied", "Journal", "JournalError", "Named", "Note", "Taken"]

FORMAT = 1
MOST_MIB = 512
"""More than a comparison writes; what is larger is not read."""


class JournalError(ValueError):
    """A file that cannot be written, read or gone on from; the message names file and line."""


class Named(msgspec.Struct, frozen=True):
    """An environment as it was named and as it was found."""

    name: str
    packages: dict[str, str]
    """Normalised distribution name to version, Python included."""


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
    """Of a bisection: the metric that it follows, where the user named it."""


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
    """Of a bisection, how the changed packages hang together; found in environments that may be gone later."""

    implied: dict[str, frozenset[str]]
    """What has to change with each of them, itself included."""
    needs: dict[str, frozenset[str]]
    """What the new version of each needs of the others."""


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

    def __init__(self, path: Path | None, asked: Asked, stream: IO[bytes] | None, lines: list[Line]) -> None:
        self.path = path
        self.asked = asked
        self._stream = stream
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
            JournalError: the file is there already, or cannot be written.
        """
        if path is None:
            return cls(None, asked, None, [])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not "x", which would refuse /dev/null.
            if path.is_file() and path.stat().st_size:
                raise JournalError(f"{path} is there already; go on with --resume {path}, or name another file")
            stream = _claimed(path, "ab")
        except OSError as error:
            raise JournalError(f"{path}: results cannot be written there: {error.strerror}") from None
        journal = cls(path, asked, stream, [])
        try:
            journal._write(asked)
        except JournalError:
            stream.close()
            raise
        return journal

    @classmethod
    def resume(cls, path: Path) -> Self:
        """
        Read a file and open it for more; half a line that a killed run has left is cut off.

        Raises:
            JournalError: it is not the file of a comparison.
        """
        try:
            asked, lines, length = _read(path)
            stream = _claimed(path, "r+b")
            stream.truncate(length)
            stream.seek(0, os.SEEK_END)
        except OSError as error:
            raise JournalError(f"{path}: results cannot be read and written: {error.strerror}") from None
        return cls(path, asked, stream, lines)

    @classmethod
    def read(cls, path: Path) -> Self:
        """
        What a file has so far, also while another run writes to it. What is added is not written down.

        Raises:
            JournalError: it is not the file of a comparison, or cannot be read.
        """
        try:
            asked, lines, _ = _read(path)
        except OSError as error:
            raise JournalError(f"{path}: results cannot be read: {error.strerror}") from None
        return cls(path, asked, None, lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def pairs(self, case: str) -> list[Pair]:
        """Those of a case, in the order in which they were measured."""
        return self._pairs.get(case, [])

    def note(self, case: str) -> str | None:
        """Why a case was not measured, if it was not."""
        return self._notes.get(case)

    def add(self, line: Taken | Note | Implied) -> None:
        """
        Write a line down.

        Raises:
            JournalError: it could not be written.
        """
        self._take(line)
        self._write(line)

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

    def _write(self, line: Line) -> None:
        if self._stream is None:
            return
        data = _encoder.encode(line) + b"\n"
        try:
            while data:
                data = data[self._stream.write(data) :]
            if self.path is not None and self.path.is_file():
                os.fsync(self._stream.fileno())
        except OSError as error:
            raise JournalError(f"{self.path}: a result could not be written: {error.strerror}") from None


def _read(path: Path) -> tuple[Asked, list[Line], int]:
    """What was asked for, all that follows, and the length of the whole lines."""
    data = read_file(path, most_mib=MOST_MIB)
    whole = data[: data.rfind(b"\n") + 1]
    lines = list(_decoded(whole, path))
    asked = lines[0] if lines else None
    if not isinstance(asked, Asked):
        raise JournalError(f"{path} does not begin as the results of llmbench ab or bisect do")
    return asked, lines[1:], len(whole)


def _claimed(path: Path, mode: Literal["ab", "r+b"]) -> IO[bytes]:
    """The file, opened for this run alone."""
    stream = path.open(mode, buffering=0)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise JournalError(f"{path}: another run is writing to it") from None
    return stream


def _decoded(data: bytes, path: Path) -> Iterator[Line]:
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = _decoder.decode(printable_json(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise JournalError(f"{path}, line {number}: is not of llmbench ab or bisect: {error}") from None
        if flaw := flaw_of_decoded(line, found):
            raise JournalError(
                f"{path}, line {number}: is not of llmbench ab or bisect: {dotted(flaw.place)} {flaw.sentence}"
            )
        yield found
