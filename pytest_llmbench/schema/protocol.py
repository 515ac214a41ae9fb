"""
What the pytest side and a measuring process say to each other: versioned JSON, one message a line.

The two sides may run different package and Python versions; `PROTOCOL_VERSION` is the only thing
on which they must agree, and a disagreement is said in words.
"""

from __future__ import annotations

import signal

import msgspec

from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import CiRun, Environment, Repository
from pytest_llmbench.schema.estimate import Estimating
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.workload import Workload

__all__ = [
    "MAX_MESSAGE_BYTES",
    "PRELOADING",
    "PROTOCOL_VERSION",
    "Answer",
    "Ended",
    "Imported",
    "Message",
    "Phase",
    "Ready",
    "Request",
    "Started",
    "Surroundings",
    "decode_message",
    "decode_request",
    "encode",
    "ended",
]

PRELOADING = "preload"
"""The phase before those of the process: a server imports what all cases need, and the first case waits for it."""

PROTOCOL_VERSION = 6
MAX_MESSAGE_BYTES = 16 * 2**20
"""A line longer than this is rubbish: a measurement is some tens of kilobytes."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measure this case, in a process that sees these devices only."""

    case: Case
    workload: Workload
    visible_devices: str | None = None
    """CUDA_VISIBLE_DEVICES of the measuring process, as UUIDs; None leaves it as it is."""
    with_profile: bool = True
    """Whether to count what a step does, by name and place: one process of a measurement is enough."""
    estimate: Estimating | None = None
    """Estimate the memory, on tensors without content, instead of measuring."""
    trace: str | None = None
    """File for a trace of one optimizer step, recorded when all else has been measured."""
    repository: Repository | None = None
    """The repository under test, which only the side that asks knows."""
    ci: CiRun | None = None
    protocol: int = PROTOCOL_VERSION


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The server has imported the libraries and forks from now on."""

    poisoned: str | None = None
    """Why children of this server could not use CUDA; the executor then spawns instead."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The server forked a child for the request; it leads a process group of its own."""

    pid: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The child and everything it started are gone."""

    pid: int
    exit_status: int
    """As `subprocess` gives it: negative for the number of the signal that killed it."""


class Imported(msgspec.Struct, frozen=True, tag="imported"):
    """The process has imported what measures; its deadline runs from now on."""


class Phase(msgspec.Struct, frozen=True, tag="phase"):
    """The measuring process enters a phase: build, warm-up, rounds, activity, ..."""

    name: str
    samples_per_second: float | None = None
    """Speed so far, where the phase has one."""


class Surroundings(msgspec.Struct, frozen=True, tag="surroundings"):
    """Where the process measures, said before anything can go wrong: also a crash has its package diff."""

    environment: Environment


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The one measurement that a measuring process gives."""

    measurement: Measurement


def ended(exit_status: int) -> str:
    """Sentence of how a process went, as "exited with status 3"; *exit_status* as `subprocess` gives it."""
    if exit_status >= 0:
        return f"exited with status {exit_status}"
    try:
        name = signal.Signals(-exit_status).name
    except ValueError:
        name = f"signal {-exit_status}"
    hint = " (the out-of-memory killer does that)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


Message = Ready | Started | Ended | Imported | Phase | Surroundings | Answer

_encoder = msgspec.json.Encoder()
_messages: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


def encode(message: Message | Request) -> bytes:
    """One line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_message(line: bytes) -> Message:
    """
    Raises:
        msgspec.DecodeError: *line* is not one message.
    """
    return _messages.decode(line)


def decode_request(line: bytes) -> Request:
    """
    Raises:
        msgspec.DecodeError: *line* is not one request.
    """
    return _requests.decode(line)
