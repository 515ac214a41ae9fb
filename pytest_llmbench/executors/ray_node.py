"""
What a node of a Ray cluster does for a case: the same as a machine that pytest runs on.

A Ray worker process starts no more than a fork server, keeps it warm for the next case, and is itself
never the process that measures.
"""

from __future__ import annotations

import functools
import platform
import time
from typing import Literal

import msgspec

from pytest_llmbench.executors import NotMeasurable, SetupError
from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import PROTOCOL_VERSION, decode_request
from pytest_llmbench.schema.workload import WORKLOAD_VERSION, Device

__all__ = ["Reply", "Setup", "Versions", "measure_here", "versions"]


class Versions(msgspec.Struct, frozen=True):
    """Versions that driver and node must agree on."""

    package: str
    """Version of the distribution; not compared where the node runs the driver's own code."""
    protocol: int
    workload: int

    def __str__(self) -> str:
        return f"{self.package} (protocol {self.protocol}, workload {self.workload})"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How a node is to measure."""

    versions: Versions
    """The driver's."""
    has_own_code: bool
    """The node runs the package that is installed there, and not the driver's."""
    device: Device
    timeout_seconds: float
    measure: str
    preload: tuple[str, ...]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a case on a node."""

    node: str
    """Its host name."""
    measurement: Measurement | None = None
    refused: Literal["not measurable", "setup"] | None = None
    reason: str = ""
    seconds: float = 0.0
    """How long the case took there; what it waited in Ray's queue is not in it."""
    announcements: tuple[str, ...] = ()


def versions() -> Versions:
    """Versions of the package that this process has imported."""
    import pytest_llmbench

    return Versions(pytest_llmbench.__version__, PROTOCOL_VERSION, WORKLOAD_VERSION)


def measure_here(setup: bytes, request: bytes) -> bytes:
    """
    Measure an encoded request as an encoded `Setup` says; an encoded `Reply`.

    Both may come from another version of this package, which is the first thing that is found out.
    """
    announced: list[str] = []
    node = platform.node()
    started = time.monotonic()
    theirs = msgspec.json.decode(setup, type=_Versioned)
    if (why := _mismatch(theirs)) is not None:
        return msgspec.json.encode(Reply(node=node, refused="setup", reason=why))
    try:
        machine = _machine(setup)
        machine.look_again(announced.append)
        measurement = machine.run(decode_request(request), lambda _: None)
    except NotMeasurable as error:
        reply = Reply(node=node, refused="not measurable", reason=str(error), announcements=tuple(announced))
    except SetupError as error:
        reply = Reply(node=node, refused="setup", reason=str(error), announcements=tuple(announced))
    else:
        spent = time.monotonic() - started
        reply = Reply(node=node, measurement=measurement, seconds=spent, announcements=tuple(announced))
    return msgspec.json.encode(reply)


class _Versioned(msgspec.Struct):
    versions: Versions
    has_own_code: bool


def _mismatch(theirs: _Versioned) -> str | None:
    own = versions()
    if not theirs.has_own_code:
        own = msgspec.structs.replace(own, package=theirs.versions.package)
    if own == theirs.versions:
        return None
    return f"it has pytest-llmbench {own}, the driver {theirs.versions}; install the same in both"


@functools.cache
def _machine(setup: bytes) -> Machine:
    """The one of this Ray worker process: its servers stay warm from case to case."""
    told = msgspec.json.decode(setup, type=Setup)
    return Machine(
        told.device,
        timeout_seconds=told.timeout_seconds,
        announce=lambda _: None,  # each case brings its own
        measure=told.measure,
        preload=told.preload,
    )
