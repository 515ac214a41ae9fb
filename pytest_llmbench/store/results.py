"""
The results of a run: one JSON line per judged case, appended as it comes, read back by `resume`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.text import printable
from pytest_llmbench.store.lines import UNREADABLE, LineError, LineFile, ResultError, decoded, read_lines
from pytest_llmbench.tables.renamed import row_of_today

__all__ = ["FORMAT", "Decision", "Result", "ResultError", "ResultLog", "UnwritableResult", "latest", "read_results"]

FORMAT = 1
MOST_NAMED = 5
"""Number of the lines left out of a file that are named, each by itself."""

Decision = Literal["pass", "fail", "skip"]


class UnwritableResult(ResultError):
    """A result that could not be read again, and is not written; the file takes others."""


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
    seconds: float | None
    """Time from asking for a process until it was gone; None for a measurement of an earlier run, or of a user's."""

    @property
    def name(self) -> str:
        """Table and row: a row's name may be in several tables."""
        return f"{self.table}[{self.row}]"

    @property
    def why(self) -> str:
        """The message, or what the verdict says, without the row's name at its beginning."""
        told = self.message or self.verdict.reason
        return told.removeprefix(f"{self.name}: ").removeprefix(f"{self.row}: ")

    @property
    def unjudged(self) -> str | None:
        """Why the row passed or failed without being held against a baseline; None where it was judged."""
        if self.verdict.status == "no baseline" and not self.recorded:
            return self.verdict.reason
        return self.message if self.recorded or self.decision == "skip" else None

    @property
    def told(self) -> str:
        """Fate of the row, in the word or two that reports have room for."""
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
        self._known = {_row_of(result): msgspec.structs.replace(result, seconds=None) for result in known}
        self._lines = LineFile(path, is_torn=_is_torn)

    def append(self, result: Result) -> None:
        """
        Write *result*, unless it was resumed from this file and has been judged as it was then.

        Raises:
            UnwritableResult: `read_results` would refuse the line.
            ResultError: the line could not be written.
        """
        if result.seconds is None and self._known.get(_row_of(result)) == result:
            return
        self._lines.write(self._encoded(result))

    def _encoded(self, result: Result) -> bytes:
        try:
            line = msgspec.json.encode(result)
            _decoded(line)
        except (ValueError, OverflowError) as error:  # also text that is not Unicode
            told = f"{self.path}: the result of {result.name!r} is not written, since it {error}"
            raise UnwritableResult(told) from None
        return line

    def close(self) -> None:
        """Close the file, and remove it if it was made for results that never came."""
        self._lines.close()


def read_results(path: Path, left_out: Callable[[str], object] | None = None) -> tuple[Result, ...]:
    """
    The results of a file in their order; a last line that a killed run left unfinished is passed over.

    Args:
        path: the file.
        left_out: told, in a sentence, of each line that is not a result of a known format, and the
            results of all others are given. Without it the first such line is an error.

    Raises:
        ResultError: the file cannot be read, or none of its lines can.
    """
    found: list[Result] = []
    refused: list[str] = []
    with _collector_off():
        for number, line in enumerate(read_lines(path, _is_torn), start=1):
            if line.strip():
                try:
                    found.append(_decoded(line))
                except LineError as error:
                    refused.append(f"{path}, line {number}: {error}")
    if refused and (left_out is None or not found):
        raise ResultError(refused[0])
    if left_out is not None:
        for sentence in refused[:MOST_NAMED]:
            left_out(f"{sentence}; the line is left out")
        if more := len(refused[MOST_NAMED:]):
            left_out(f"{path}: {more} more lines are left out, which are no results either")
    return tuple(found)


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


def _decoded(line: bytes) -> Result:
    """
    Raises:
        LineError: the line is no result; the message goes on after "it" or the line's number.
    """
    try:
        result = decoded(line, _read)
    except LineError as error:
        raise LineError(_newer(line) or f"is not a result: {error}") from None
    if not f"{result.nodeid}{result.table}{result.row}".isprintable():  # names have no lines
        names = (printable(name, lines=False) for name in (result.nodeid, result.table, result.row))
        result = msgspec.structs.replace(result, **dict(zip(("nodeid", "table", "row"), names, strict=True)))
    row = row_of_today(result.table, result.row)
    return result if row == result.row else msgspec.structs.replace(result, row=row)


def _read(line: bytes) -> Result:
    if _FORMER_STATUS not in line:
        return _decoder.decode(line)
    written = msgspec.json.decode(line)
    for verdict in _verdicts(written):
        if verdict.get("status") == "inconclusive":
            verdict["status"] = "undecided" if verdict.get("undecided") is True else "unmeasured"
    return msgspec.convert(written, Result, str_keys=True)


def _verdicts(written: Any) -> Iterator[dict[str, Any]]:
    """The row's verdict and those of its metrics, of a result that may have any form."""
    verdict = written.get("verdict") if isinstance(written, dict) else None
    if isinstance(verdict, dict):
        metrics = verdict.get("metrics")
        yield from (one for one in (verdict, *(metrics if isinstance(metrics, list) else ())) if isinstance(one, dict))


def _is_torn(rest: bytes) -> bool:
    """Whether what follows the last newline is the beginning of a result, and not all of one."""
    try:
        _read(rest)
    except UNREADABLE:
        return bool(rest) and rest.startswith(_START[: len(rest)])
    return False


class _Format(msgspec.Struct):
    format: int = 0


def _newer(line: bytes) -> str | None:
    try:
        found = msgspec.json.decode(line, type=_Format).format
    except UNREADABLE:
        return None
    if found > FORMAT:
        return f"has format {found}, this pytest-llmbench reads up to {FORMAT}; upgrade pytest-llmbench"
    return None


_START = b'{"format":'
"""The first bytes of every line that `ResultLog` writes."""
_FORMER_STATUS = b'"inconclusive"'
"""In every line of before `undecided` and `unmeasured` were two statuses, and a flag told them apart."""
_decoder = msgspec.json.Decoder(Result)
