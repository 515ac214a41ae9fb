"""Where a case is run: what every executor offers, whatever processes it has behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, runtime_checkable

from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Phase, Request

__all__ = ["Executor", "NotMeasurable", "Scheduling", "SetupError", "Timed"]


class Timed(NamedTuple):
    """A measurement, and the seconds that its processes took, those in which it waited for its turn left out."""

    measurement: Measurement
    seconds: float


class NotMeasurable(Exception):
    """There is no device here for the case; the message says why and what would do."""


class SetupError(ValueError):
    """No case can be run as the run was set up; the message says what to change."""


class Executor(Protocol):
    """
    Measures requests, each in a fresh process, one at a time.

    Its `str()` stands in pytest's header, as "NVIDIA H200 (140.40 GiB) x 2".
    """

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        """
        Measure *request* once.

        Whatever becomes of the process is an outcome of the measurement and never an exception.

        Args:
            request: the case and how to measure it.
            on_phase: called in this thread as the process enters each phase, and now and then while it is in it.

        Raises:
            NotMeasurable: the test of this case is skipped.
            SetupError: the whole run ends.
        """
        ...

    def close(self) -> None:
        """End every process. The executor cannot be used afterwards."""
        ...


@runtime_checkable
class Scheduling(Executor, Protocol):
    """
    An executor that measures ahead what it is told of, in an order of its own and several requests at once.

    Attributes:
        last_seconds: how long the case took that `run` returned last; the time that the caller waited
            for it says nothing of it.
    """

    last_seconds: float

    def schedule(self, requests: Iterable[Request], on_ahead: Callable[[], None]) -> None:
        """
        Each of these will be asked for once, by `run`, in whatever order; `run` takes others, too.

        Args:
            on_ahead: called within `run` when more is there that was not asked for yet.
        """
        ...

    def ahead(self, requests: Iterable[Request]) -> tuple[Timed, ...]:
        """Measurements of all *requests*, if they are there and were not asked for yet; none if one is missing."""
        ...
