"""
One measuring process: a request in, phases and one answer out.

Whatever the measuring raises becomes an answer here; what a process cannot say itself (a signal,
a hang) the executor says for it.
"""

from __future__ import annotations

import faulthandler
import importlib
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.libraries import EXTRAS, extra_of, outside_bounds
from pytest_llmbench.schema.measurement import Measurement, Outcome, failed
from pytest_llmbench.schema.protocol import (
    PROTOCOL_VERSION,
    Answer,
    Imported,
    Phase,
    Request,
    Surroundings,
    decode_message,
    decode_request,
    encode,
)
from pytest_llmbench.schema.strict import dotted, first_flaw
from pytest_llmbench.schema.text import printable

__all__ = ["STACK_SIGNAL", "Measure", "ProtocolError", "live", "main", "named"]

Measure = Callable[[Request, Callable[[Phase | Surroundings], None]], Measurement]

STACK_SIGNAL = signal.SIGUSR1
"""Makes a measuring process write its Python stack to its log, also while it is stuck in C code."""

MAX_REASON_CHARACTERS = 1000
FRAMES = 3


class ProtocolError(ValueError):
    """The pytest side and this process run packages that do not understand each other."""


class _Version(msgspec.Struct):
    protocol: int


def live(life: Callable[[], None]) -> NoReturn:
    """Be a forked process for as long as *life* lasts: nothing may climb back into the code of the one that forked."""
    status = 1
    try:
        life()
        status = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(line: bytes, channel: int, load: Callable[[], Measure]) -> None:
    """
    Measure one request and write the answer, as this process's whole life.

    Args:
        line: the encoded request.
        channel: file descriptor of the pipe for phases and the answer.
        load: gives the function that measures; what it imports is imported here. The function is called with
            the request and a function that reports a phase, and returns the measurement.

    Raises:
        ProtocolError: the request is of another protocol version.
        msgspec.DecodeError: *line* is not a request.
    """
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # or what a killed process printed is lost
    faulthandler.enable(all_threads=False)
    faulthandler.register(STACK_SIGNAL, all_threads=False)
    request = _decode(line)
    if request.visible_devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = request.visible_devices
    environment: Environment | None = None

    def report(message: Phase | Surroundings) -> None:
        nonlocal environment
        if isinstance(message, Surroundings):
            environment = message.environment
        _write(channel, encode(message))

    try:
        measuring = load()
        _write(channel, encode(Imported()))
        answer = _checked(request, measuring(request, report))
    except BaseException as error:  # noqa: BLE001 - the top of this process: everything ends in an answer
        traceback.print_exc()
        answer = encode(Answer(msgspec.structs.replace(_failure(request, error), environment=environment)))
    _write(channel, answer)


def _decode(line: bytes) -> Request:
    version = msgspec.json.decode(line, type=_Version).protocol
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the pytest side speaks protocol {version}, the measuring environment {PROTOCOL_VERSION}; "
            "install the same pytest-llmbench in both"
        )
    return decode_request(line)


def named(reference: str) -> Measure:
    """The function that `module:function` names."""
    module, _, function = reference.partition(":")
    measure: Measure = getattr(importlib.import_module(module), function)
    return measure


def _write(channel: int, data: bytes) -> None:
    while data:
        data = data[os.write(channel, data) :]


def _checked(request: Request, measurement: Measurement) -> bytes:
    """
    The answer as a line, or that of a failure if it holds a value that no file of results can hold.

    Raises:
        msgspec.DecodeError: the executor could not read the measurement.
    """
    values = (item for process in measurement.processes for item in process.metrics.items())
    infinite = sorted({name for name, value in values if isinstance(value, float) and not math.isfinite(value)})
    if infinite:
        diverged = {"loss_first", "loss_last", "grad_norm"} & set(infinite)
        reason = f"not finite: {', '.join(infinite)}"
        measurement = _failed(request, "diverged" if diverged else "crashed", reason)
    elif flaw := first_flaw(msgspec.to_builtins(measurement)):
        measurement = _failed(request, "crashed", f"{dotted(flaw.place)} {flaw.sentence}, which no result can hold")
    line = encode(Answer(measurement))
    decode_message(line)
    return line


def _failure(request: Request, error: BaseException) -> Measurement:
    """Outcome that an exception means for the case."""
    told = traceback.TracebackException.from_exception(error)
    message = "".join(told.format_exception_only()).strip()[:MAX_REASON_CHARACTERS]
    ours = ("<frozen importlib", importlib.__file__, __file__)
    frames = [frame for frame in told.stack if not frame.filename.startswith(ours)][: -FRAMES - 1 : -1]
    if isinstance(error, ImportError) and request.case.step is None:
        message = "; ".join([message, *outside_bounds(EXTRAS)])
    where = " <- ".join(f"{_short(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames)
    if _is_out_of_memory(error):
        return _failed(request, "oom", message)
    if isinstance(error, MemoryError):
        message = f"the memory of this machine, not that of the GPU, ran out: {message}"
    if library := _missing_library(error):
        hint = f"pip install 'pytest-llmbench[{extra_of(library)}]'"
        return _failed(request, "unavailable", f"{library} cannot be imported ({message}); {hint}")
    return _failed(request, "crashed", f"{message} (at {where})" if where else message)


def _failed(request: Request, outcome: Outcome, reason: str) -> Measurement:
    # Lone surrogates, as in the name of a file that is not UTF-8, have no place in JSON.
    return failed(request.case, request.workload, outcome, printable(reason))


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the GPU's memory ran out: torch says so by a class, the driver and other libraries in words."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return "OutOfMemoryError" in names or (
        isinstance(error, RuntimeError) and "CUDA" in str(error) and "out of memory" in str(error)
    )


def _missing_library(error: BaseException) -> str | None:
    """
    The library of an extra that is not there or cannot be loaded.

    A library that is there and lacks a name or a submodule is another matter: an upgrade took them
    away, and the case has crashed.
    """
    if not isinstance(error, ImportError) or error.name is None or "cannot import name" in error.msg:
        return None
    library, _, submodule = error.name.partition(".")
    if isinstance(error, ModuleNotFoundError) and submodule:
        return None
    return library if extra_of(library) else None


def _short(filename: str) -> str:
    """The last two parts of a path, which tell `peft/model.py` from `torch/model.py`."""
    return str(Path(*Path(filename).parts[-2:]))
