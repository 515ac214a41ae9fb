"""Where a case is run: what every executor offers, whatever processes it has behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pytest_llmbench.measurement import Measurement
from pytest_llmbench.protocol import Phase, Request

__all__ = ["Executor"]


class Executor(Protocol):
    """Measures requests, each in a fresh process, one at a time."""

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        """
        Measure *request* once.

        Whatever becomes of the process is an outcome of the measurement and never an exception.

        Args:
            request: the case and how to measure it.
            on_phase: called in this thread as the process enters each phase.
        """
        ...

    def close(self) -> None:
        """End every process. The executor cannot be used afterwards."""
        ...
