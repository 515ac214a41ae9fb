"""The executor's end of a measuring process's pipe: lines in, phases and at most one answer out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from pytest_llmbench.executors.log import Pipe
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import MAX_MESSAGE_BYTES, Answer, Imported, Phase, Surroundings, decode_message
from pytest_llmbench.schema.text import printable_json

__all__ = ["Channel", "RubbishError"]

logger = logging.getLogger(__name__)


class RubbishError(ValueError):
    """A measuring process wrote something that is no message of its."""


class Channel(Pipe):
    """
    What one measuring process says, checked as it arrives.

    The process knows by the pipe whether anybody listens, so closing the channel takes the case back.

    Attributes:
        answer: the measurement, once it is there. Whatever comes after it is ignored.
        answered_at: `time.monotonic()` of its arrival, in seconds.
        imported_at: `time.monotonic()` of when the process had imported what measures, in seconds.
        environment: where the process measures, once it has said so.
        phase: name of the phase that the process entered last.
        phase_at: `time.monotonic()` of that, in seconds.
    """

    def __init__(self, case: Case, on_phase: Callable[[Phase], None]) -> None:
        self._case = case
        self._on_phase = on_phase
        super().__init__()
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._ignored_bytes = 0
        self.answer: Measurement | None = None
        self.answered_at = 0.0
        self.imported_at: float | None = None
        self.environment: Environment | None = None
        self.phase: str | None = None
        self._told: Phase | None = None
        self.phase_at = 0.0

    def close(self) -> None:
        if self._ignored_bytes and self._reader in self._open:
            logger.warning("ignored %d bytes that a measuring process wrote after its answer", self._ignored_bytes)
        super().close()

    def read(self) -> bool:
        """
        Take in what has arrived; False when there is nothing now.

        Raises:
            RubbishError: it is not a phase, nor an answer for the case.
        """
        if (data := self._arrived()) is None:
            return False
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._hear(b"".join([*self._line, end]))
            self._line, self._line_bytes = [], 0
        self._keep(rest)
        return bool(data)

    def tell_again(self) -> None:
        """Tell of the phase that goes on, so that whoever waits sees time pass."""
        if self._told is not None and self.answer is None:
            self._on_phase(self._told)

    def _keep(self, rest: bytes) -> None:
        """Hold on to an unfinished line, which may not grow without end."""
        if self.answer is not None:
            self._ignored_bytes += len(rest)
            return
        self._line.append(rest)
        self._line_bytes += len(rest)
        if self._line_bytes > MAX_MESSAGE_BYTES:
            raise RubbishError(f"a message of more than {MAX_MESSAGE_BYTES // 2**20} MiB")

    def _hear(self, line: bytes) -> None:
        if self.answer is not None:
            self._ignored_bytes += len(line) + 1
            return
        try:
            message = decode_message(printable_json(line))
        except msgspec.DecodeError as error:
            raise RubbishError(f"{line[:60]!r} ({error})") from None
        match message:
            case Phase():
                self.phase, self.phase_at = message.name, time.monotonic()
                self._told = message
                self._on_phase(message)
            case Imported():
                self.imported_at = time.monotonic()
            case Surroundings(environment):
                self.environment = environment
            case Answer(measurement) if measurement.case == self._case:
                self.answer, self.answered_at = measurement, time.monotonic()
            case Answer():
                raise RubbishError("an answer for another case")
            case _:
                raise RubbishError(f"a message of another kind: {type(message).__name__}")
