"""What is told of one optimizer step in two parts, so that each part can be counted by itself."""

from __future__ import annotations

from typing import Self

__all__ = ["Recorder"]


class Recorder:
    """
    Started, told of the boundary between micro-batches and optimizer step, and stopped.

    Leaving the context stops what still runs, so that an error in the pass is the only one.
    """

    def begin(self) -> None:
        """Before the micro-batches."""
        raise NotImplementedError

    def boundary(self) -> None:
        """After the micro-batches, before the optimizer step."""
        raise NotImplementedError

    def end(self) -> None:
        """After the optimizer step."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what still runs."""
        raise NotImplementedError
