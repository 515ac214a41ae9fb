"""
The results of a run: one JSON line per judged case, appended as it comes, read back by `resume`.
"""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.measurement import Measurement
from pytest_llmbench.metrics import Value
from pytest_llmbench.text import printable, printable_json

__all__ = ["FORMAT", "Decision", "Result", "ResultError", "ResultLog", "latest", "read_results"]

FORMAT = 1

Decision = Literal["pass", "fail", "skip"]


class ResultError(ValueError):
    """A result file that cannot be written or read; the message names file and line."""


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One case measured, judged, and decided upon."""

    format: int = FORMAT
    nodeid: str
    """The test, as pytest names it."""
    table: str
    row: str
    measurement: Measurement
    verdict: RowVerdict
    decision: Decision
    message: str
    """Why it did not pass; else what a reader should know, or nothing."""
    recorded: bool = False
    """Whether the measurement has become the baseline."""
    seconds: float
    """From asking for a process until it was gone; 0 for a resumed result."""

    @property
    def told(self) -> str:
        """What became of the row, in the word or two that reports have room for."""
        if self.recorded:
            return "recorded"
        return "skipped" if self.decision == "skip" else self.verdict.status


def latest(results: Iterable[Result]) -> tuple[Result, ...]:
    """The last result of each row of each test, which is the one that counts, in their order."""
    found: dict[tuple[str, str, str], Result] = {}
    for result in results:
        found.pop(_row_of(result), None)  # its place, too: what was measured ahead of its test came early
        found[_row_of(result)] = result
    return tuple(found.values())


def _row_of(result: Result) -> tuple[str, str, str]:
    return result.nodeid, result.table, result.row


class ResultLog:
    """
    A file to which results are appended, each as one line that is on disk when `append` returns.

    Args:
        path: made, with its folders, if it is not there.
        known: what is already in it.

    Raises:
        ResultError: the file cannot be opened for appending.
    """

    def __init__(self, path: Path, known: Iterable[Result] = ()) -> None:
        self.path = path
        self._known = {_row_of(result): msgspec.structs.replace(result, seconds=0.0) for result in known}
        self._made = not path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream: IO[bytes] = path.open("ab", buffering=0)
            self._is_file = path.is_file()  # and not /dev/null, which can be neither synchronised nor cut short
            if self._is_file:
                self._end_last_line()
        except OSError as error:
            raise ResultError(f"{path}: results cannot be written there: {error.strerror}") from error

    def _end_last_line(self) -> None:
        """Cut off the half line that a killed run has left."""
        data = self.path.read_bytes()
        rest = data[data.rfind(b"\n") + 1 :]
        if _is_torn(rest):
            self._stream.truncate(len(data) - len(rest))
        elif rest:
            self._stream.write(b"\n")

    def append(self, result: Result) -> None:
        """
        Write *result*, unless it was resumed from this file and has been judged as it was then.

        Raises:
            ResultError: the line could not be written.
        """
        if not result.seconds and self._known.get(_row_of(result)) == result:
            return
        line = msgspec.json.encode(result) + b"\n"
        try:
            while line:
                line = line[self._stream.write(line) :]
            if self._is_file:
                os.fsync(self._stream.fileno())
        except OSError as error:
            raise ResultError(f"{self.path}: a result could not be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file, and remove it if it was made for results that never came."""
        self._stream.close()
        if self._made and self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()


def read_results(path: Path) -> tuple[Result, ...]:
    """
    The results of a file in their order; a last line that a killed run left unfinished is passed over.

    Raises:
        ResultError: the file cannot be read, or a line is not a result of a known format.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):  # /dev/zero never ends, and a pipe may never begin
            raise ResultError(f"{path}: results cannot be read: it is not a file")
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ResultError(f"{path}: results cannot be read: {error.strerror}") from error
    if not _is_torn(rest):
        lines.append(rest)
    with _collector_off():
        return tuple(_decoded(line, path, number) for number, line in enumerate(lines, start=1) if line.strip())


@contextmanager
def _collector_off() -> Iterator[None]:
    """Looking for garbage among thousands of new values takes twice as long as decoding them, and finds none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # nobody else's are thawed
            gc.freeze()
            gc.unfreeze()  # they are old now, and will be looked at when everything is
        if was_on:
            gc.enable()


def _decoded(line: bytes, path: Path, number: int) -> Result:
    try:
        result = _decoder.decode(line)
        if (shown := printable_json(line)) is not line:
            result = _decoder.decode(shown)
    except _UNREADABLE as error:
        told = _newer(line) or printable(f"is not a result: {error}", lines=False)
        raise ResultError(f"{path}, line {number}: {told}") from None
    if not f"{result.nodeid}{result.table}{result.row}".isprintable():  # names have no lines
        names = (printable(name, lines=False) for name in (result.nodeid, result.table, result.row))
        result = msgspec.structs.replace(result, **dict(zip(("nodeid", "table", "row"), names, strict=True)))
    if any(map(_is_huge, _numbers(result))):
        raise ResultError(f"{path}, line {number}: is not a result: it has a number of more than 64 bits")
    return result


def _numbers(result: Result) -> Iterator[Value | None]:
    """Everything that is going to be calculated with."""
    for process in result.measurement.processes:
        yield from process.metrics.values()
        for one in process.rounds:
            yield one.samples
            yield one.tokens
    for metric in result.verdict.metrics:
        yield metric.baseline
        yield metric.now


def _is_huge(value: Value | None) -> bool:
    """Whether it is an integer that could not even be set beside a float; one of 64 bits always can."""
    if type(value) is tuple:
        return any(map(_is_huge, value))
    return type(value) is int and value.bit_length() >= 64


def _is_torn(rest: bytes) -> bool:
    """Whether what follows the last newline is the beginning of a result, and not all of one."""
    try:
        _decoder.decode(rest)
    except _UNREADABLE:
        return bool(rest) and rest.startswith(_START[: len(rest)])
    return False


class _Format(msgspec.Struct):
    format: int = 0


def _newer(line: bytes) -> str | None:
    try:
        found = msgspec.json.decode(line, type=_Format).format
    except _UNREADABLE:
        return None
    if found > FORMAT:
        return f"has format {found}, this pytest-llmbench reads up to {FORMAT}; upgrade pytest-llmbench"
    return None


_START = b'{"format":'
"""The first bytes of every line that `ResultLog` writes."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises: no such value, not UTF-8, nested without end."""
_decoder = msgspec.json.Decoder(Result)
