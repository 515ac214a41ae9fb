"""What a process printed: kept in a file of its own, of which only the end is ever read."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Self

__all__ = ["Log"]

TAIL_BYTES = 2**16
LINES = 8
LINE_CHARACTERS = 200
FRAMES = 3

_STACK = re.compile(
    r"(?:Fatal Python error: [^\n]*\n+)?"
    r"(?:Stack|(?:Current t|T)hread [^\n]*) \(most recent call first\):\n(?P<frames>(?:  File [^\n]*\n)+).*",
    re.DOTALL,
)
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)')


class Log:
    """An anonymous file for a process's standard output and error; gone when closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def last_lines(self) -> str | None:
        """The last lines that say something, without a stack that faulthandler wrote after them."""
        lines = [line.rstrip()[:LINE_CHARACTERS] for line in _STACK.sub("", self._tail()).splitlines()]
        return "\n".join([line for line in lines if line][-LINES:]) or None

    def stack(self) -> str | None:
        """Where the process stood when faulthandler was last made to say so, innermost call first."""
        stacks = list(_STACK.finditer(self._tail()))
        if not stacks:
            return None
        frames = _FRAME.finditer(stacks[-1]["frames"])
        calls = [f"{Path(*Path(frame['file']).parts[-2:])}:{frame['line']} in {frame['name']}" for frame in frames]
        return " <- ".join(calls[:FRAMES])

    def _tail(self) -> str:
        size = os.fstat(self.fileno()).st_size
        return os.pread(self.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace")
