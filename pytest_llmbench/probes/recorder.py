"""What is told of one optimizer step in two parts, so that each part can be counted by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

__all__ = ["NotCounted", "Recorder"]


class NotCounted(RuntimeError):
    """What a recorder counts cannot be counted in this process; the message says why."""


class Recorder(ABC):
    """
    Started, told of the boundary between micro-batches and optimizer step, and stopped.

    Leaving the context stops what still runs, so that an error in the pass is the only one.
    """

    @abstractmethod
    def begin(self) -> None:
        """Before the micro-batches."""

    @abstractmethod
    def boundary(self) -> None:
        """After the micro-batches, before the optimizer step."""

    @abstractmethod
    def end(self) -> None:
        """After the optimizer step."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Stop what still runs."""
