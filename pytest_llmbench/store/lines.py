"""
Files of one JSON value a line, appended as they come: a line is on disk once it is written.

A run that is killed leaves half a line at most, which readers pass over and the next writer cuts off.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from pytest_llmbench.schema.strict import dotted, flaw_of_decoded
from pytest_llmbench.schema.text import printable, printable_json
from pytest_llmbench.store.files import read_file

__all__ = ["UNREADABLE", "LineError", "LineFile", "ResultError", "decoded", "read_lines"]

MOST_MIB = 512
"""Size above which a file is not read; a hundred thousand results take less."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of decoding: no such value, not UTF-8, nested without end."""

Value = TypeVar("Value")


class ResultError(ValueError):
    """A file of results that cannot be written, read or gone on from; the message names file and line."""


class LineError(ValueError):
    """A line that is no such value; the message says why."""


class LineFile:
    """
    A file open for appending lines, made with its folders if it is not there.

    Args:
        alone: whether no other process that asks for the same may have it open.
        is_torn: whether the bytes after the last newline are half a line, which is cut off.

    Raises:
        ResultError: it cannot be opened for appending, or another run has it open.
    """

    def __init__(self, path: Path, *, alone: bool = False, is_torn: Callable[[bytes], bool] = bool) -> None:
        self.path = path
        self._is_made = not path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("ab", buffering=0)
            if alone:  # not by filelock, which empties the file that it locks or leaves another beside it
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._is_file = path.is_file()  # and not /dev/null, which can be neither synchronised nor cut short
            if self._is_file:
                self._end_last_line(is_torn)
        except BlockingIOError:
            self._stream.close()
            raise ResultError(f"{path}: another run is writing to it") from None
        except OSError as error:
            raise ResultError(f"{path}: results cannot be written there: {error.strerror}") from error

    def _end_last_line(self, is_torn: Callable[[bytes], bool]) -> None:
        data = read_file(self.path, most_mib=MOST_MIB)
        rest = data[data.rfind(b"\n") + 1 :]
        if is_torn(rest):
            self._stream.truncate(len(data) - len(rest))
        elif rest:
            self._stream.write(b"\n")

    def write(self, line: bytes) -> None:
        """
        Append *line* and a newline.

        Raises:
            ResultError: it could not be written.
        """
        data = line + b"\n"
        try:
            while data:
                data = data[self._stream.write(data) :]
            if self._is_file:
                os.fsync(self._stream.fileno())
        except OSError as error:
            raise ResultError(f"{self.path}: a result could not be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file, and remove it if it was made for lines that never came."""
        self._stream.close()
        if self._is_made and self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()


def read_lines(path: Path, is_torn: Callable[[bytes], bool] = bool) -> list[bytes]:
    """
    Lines of a file, without the half line that *is_torn* finds after the last newline.

    Raises:
        ResultError: the file cannot be read.
    """
    try:
        *lines, rest = read_file(path, most_mib=MOST_MIB).split(b"\n")
    except OSError as error:
        raise ResultError(f"{path}: results cannot be read: {error.strerror}") from error
    return [*lines, rest] if rest and not is_torn(rest) else lines


def decoded(line: bytes, decode: Callable[[bytes], Value]) -> Value:
    """
    Value of a line, its strings printable.

    Raises:
        LineError: it is no such value.
    """
    try:
        value = decode(printable_json(line))
    except UNREADABLE as error:
        raise LineError(printable(str(error), lines=False)) from None
    if flaw := flaw_of_decoded(line, value):
        raise LineError(f"{dotted(flaw.place)} {flaw.sentence}")
    return value
