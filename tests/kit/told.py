"""A progress that keeps what it is told."""

from __future__ import annotations

from rich.console import Console

from pytest_llmbench.schema.protocol import Phase
from pytest_llmbench.store.pair import Side
from pytest_llmbench.trials.progress import Progress

__all__ = ["Told"]


class Told(Progress):
    """Each call as a tuple of its name and its arguments, in their order."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.calls: list[tuple[object, ...]] = []

    def say(self, text: str) -> None:
        self.calls.append(("say", text))

    def line(self, text: str) -> None:
        self.calls.append(("line", text))

    def start(self, name: str) -> None:
        self.calls.append(("start", name))

    def pair(self, number: int, *, confirms: bool) -> None:
        self.calls.append(("pair", number, confirms))

    def phase(self, side: Side, phase: Phase) -> None:
        self.calls.append(("phase", side, phase))

    def end(self, told: str) -> None:
        self.calls.append(("end", told))
