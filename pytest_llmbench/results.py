"""
The results of a run: one JSON line per judged case, appended as it comes, read back by `resume`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.measurement import Measurement

__all__ = ["FORMAT", "Decision", "Result", "ResultError", "ResultLog", "read_results"]

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
    seconds: float
    """From asking for a process until it was gone; 0 for a resumed result."""


class ResultLog:
    """
    A file to which results are appended, each as one line that is on disk when `append` returns.

    Raises:
        ResultError: the file cannot be opened for appending.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream: IO[bytes] = path.open("ab")
        except OSError as error:
            raise ResultError(f"{path}: results cannot be written there: {error.strerror}") from error
        if path.stat().st_size and not _ends_with_newline(path):
            self._stream.write(b"\n")  # a killed run left half a line

    def append(self, result: Result) -> None:
        """
        Raises:
            ResultError: the line could not be written.
        """
        try:
            self._stream.write(msgspec.json.encode(result) + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise ResultError(f"{self.path}: a result could not be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file, and remove it if nothing was ever written to it."""
        self._stream.close()
        if self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()


def read_results(path: Path) -> tuple[Result, ...]:
    """
    The results of a file in their order; a last line that a killed run left unfinished is passed over.

    Raises:
        ResultError: the file cannot be read, or a line is not a result of a known format.
    """
    return tuple(_decoded(path))


def _decoded(path: Path) -> Iterator[Result]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ResultError(f"{path}: results cannot be read: {error.strerror}") from error
    unfinished = len(lines)
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError as error:
            whole = isinstance(error, msgspec.ValidationError)
            if number == unfinished and not whole:
                return
            if not whole and number < unfinished:
                # Half a line in the middle: the run was killed there, and a later one went on behind it.
                continue
            raise ResultError(f"{path}, line {number}: {_newer(line) or error}") from None


class _Format(msgspec.Struct):
    format: int = 0


def _newer(line: bytes) -> str | None:
    found = msgspec.json.decode(line, type=_Format).format
    if found > FORMAT:
        return f"has format {found}, this pytest-llmbench reads up to {FORMAT}; upgrade pytest-llmbench"
    return None


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


_decoder = msgspec.json.Decoder(Result)
