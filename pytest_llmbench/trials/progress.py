"""How a comparison tells what it does, to whoever waits for it."""

from __future__ import annotations

from typing import Protocol

from pytest_llmbench.schema.protocol import Phase
from pytest_llmbench.store.pair import Side

__all__ = ["Progress"]


class Progress(Protocol):
    """
    Hears of each step of a command that installs and measures.

    Attributes:
        total: cases that it will measure; 0 if that is not known.
    """

    total: int

    def say(self, text: str) -> None:
        """Tell *text* for as long as nothing else is told."""
        ...

    def line(self, text: str) -> None:
        """Tell *text* for good."""
        ...

    def start(self, name: str) -> None:
        """A case is going to be measured."""
        ...

    def pair(self, number: int, *, confirms: bool) -> None:
        """Its pair *number*, from 1, begins; it may confirm those before it."""
        ...

    def phase(self, side: Side, phase: Phase) -> None:
        """A process of a side enters a phase, or knows its speed."""
        ...

    def end(self, told: str) -> None:
        """The case is settled."""
        ...
