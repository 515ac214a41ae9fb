"""
What a process writes, read from a pipe as it comes.

Of its output the beginning and the end are kept.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from typing import Self

from pytest_llmbench.schema.text import innermost_calls, printable
from pytest_llmbench.schema.units import size

__all__ = ["Log", "Pipe"]

HEAD_BYTES = 2**14
TAIL_BYTES = 2**16
PIPE_BYTES = 2**20
"""Room for what is printed while nobody reads; the most that Linux gives everybody."""
READ_BYTES = 2**16
FLOOD_BYTES = 2**20
"""Nobody prints so much on purpose."""
LINES = 8
FIRST_LINES = 3
LINE_CHARACTERS = 200

_STACK = re.compile(
    r"(?:Fatal Python error: [^\n]*\n+)?"
    r"(?:Stack|(?:Current t|T)hread [^\n]*) \(most recent call first\):\n(?P<frames>(?:  File [^\n]*\n)+).*",
    re.DOTALL,
)
_COLOUR = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""And what else begins as colours do."""


class Pipe:
    """
    A pipe from a process, of which this side reads and never waits.

    Attributes:
        writer: file descriptor to hand to the process; closed by `start`.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        self._open = {self._reader, self.writer}
        os.set_blocking(self._reader, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._reader

    def start(self) -> None:
        """The process has the writing end; this side's copy would hide that it closed it."""
        self._close(self.writer)

    def close(self) -> None:
        self._close(self._reader)
        self._close(self.writer)

    def _arrived(self) -> bytes | None:
        """What can be read now: empty once the last writer has gone, None while there is nothing."""
        try:
            return os.read(self._reader, READ_BYTES)
        except BlockingIOError:
            return None

    def _close(self, fd: int) -> None:
        if fd in self._open:
            self._open.remove(fd)
            os.close(fd)


class Log(Pipe):
    """
    The standard output and error of a process, which may print without end: neither disk nor memory fills up.

    Whoever waits for the process reads meanwhile, or it stands still once the pipe is full.
    """

    def __init__(self) -> None:
        super().__init__()
        with suppress(OSError):  # each user may have only so many large pipes
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._printed_bytes = 0
        self._head = bytearray()
        self._tail = bytearray()

    def read(self) -> bool:
        """Take in what was printed; False when there is nothing now."""
        if (data := self._arrived()) is None:
            return False
        self._printed_bytes += len(data)
        self._head += data[: HEAD_BYTES - len(self._head)]
        self._tail += data
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
        return bool(data)

    def last_lines(self) -> str | None:
        """The last lines that say something, without a stack that faulthandler wrote after them."""
        return "\n".join(_lines(_STACK.sub("", self._end()))[-LINES:]) or None

    def flood(self) -> str | None:
        """Beginning of a process that printed more than anybody reads, as "40 MiB, which began with ..."; else None."""
        self._read_rest()
        if self._printed_bytes < FLOOD_BYTES:
            return None
        first = "\n".join(_lines(self._head.decode(errors="replace"))[:FIRST_LINES])
        return f"{size(self._printed_bytes)}, which began with\n{first}"

    def stack(self) -> str | None:
        """Where the process stood when faulthandler was last made to say so, innermost call first."""
        stacks = list(_STACK.finditer(self._end()))
        if not stacks:
            return None
        return " <- ".join(innermost_calls(stacks[-1]["frames"]))

    def _end(self) -> str:
        self._read_rest()
        return self._tail[-TAIL_BYTES:].decode(errors="replace")

    def _read_rest(self) -> None:
        """Take in what was printed until now, and no more than a pipe holds: the process may still be printing."""
        for _ in range(PIPE_BYTES // READ_BYTES + 1):
            if not self.read():
                return


def _lines(text: str) -> list[str]:
    lines = (line.rstrip()[:LINE_CHARACTERS] for line in _COLOUR.sub("", text).splitlines())
    return [printable(line) for line in lines if line]
