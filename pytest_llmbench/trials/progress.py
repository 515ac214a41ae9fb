"""What a waiting person sees on standard error: one line that changes, and lines that stay."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from pytest_llmbench.schema.protocol import Phase
from pytest_llmbench.schema.units import seconds
from pytest_llmbench.store.pair import Side

__all__ = ["Progress"]


class Progress:
    """
    The status of a command that installs and measures.

    Args:
        total: cases that it will measure; 0 if that is not known.
    """

    def __init__(self, console: Console, total: int = 0) -> None:
        self.total = total
        self._console = console
        self._status = console.status("")
        self._done = 0
        self._name = ""
        self._pair = ""
        self._started = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def say(self, text: str) -> None:
        """Put a line in place of the one before it."""
        width = max(20, self._console.width - 4)
        self._status.update(Text(text if len(text) <= width else f"{text[: width - 3]}..."))

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self._console.print(Text(f"llmbench: {text}"), soft_wrap=True)

    def start(self, name: str) -> None:
        """A case is going to be measured."""
        self._name, self._pair, self._started = name, "", time.monotonic()

    def pair(self, number: int, *, confirms: bool) -> None:
        """Its pair *number*, from 1, begins."""
        self._pair = f"pair {number} (confirms)" if confirms else f"pair {number}"

    def phase(self, side: Side, phase: Phase) -> None:
        """A process of a side enters a phase, or knows its speed."""
        speed = f" {phase.samples_per_second:.2f} samples/s" if phase.samples_per_second else ""
        elapsed = seconds(time.monotonic() - self._started)
        self.say(
            f"{self._place(self._done + 1)}{self._name}, {self._pair}, {side.upper()}: {phase.name}{speed}, {elapsed}"
        )

    def end(self, told: str) -> None:
        """The case is settled."""
        self._done += 1
        self.line(f"{self._place(self._done)}{self._name}: {told}, {seconds(time.monotonic() - self._started)}")

    def _place(self, number: int) -> str:
        return f"[{number}/{self.total}] " if self.total else ""
