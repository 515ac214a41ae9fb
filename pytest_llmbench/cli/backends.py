"""
Which libraries load and which parts of a case can run, tried in child processes: a broken library may kill its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_llmbench.schema.protocol import ended
from pytest_llmbench.schema.text import printable_json

__all__ = ["Backend", "check_backends"]


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """A library, a device, an attention or a quantization, and whether it can be used."""

    kind: str
    name: str
    version: str | None = None
    absent: str | None = None
    """Why it is not here, where nothing is wrong with that."""
    trouble: str | None = None
    """Why it cannot be used although it is here or was asked for."""
    seconds: float = 0.0
    """What loading it took, what it needs and was not loaded before included."""

    @property
    def usable(self) -> bool:
        return self.absent is None and self.trouble is None


def check_backends(checks: Sequence[str], python: str, timeout_seconds: float) -> Iterator[Backend]:
    """
    What each check of `worker.backends` comes to, in their order.

    A check that takes its process with it, or takes too long, has that as its trouble.
    """
    left = list(checks)
    while left:
        command = [python, "-m", "pytest_llmbench.worker.backends", *left]
        output, how = _output(command, timeout_seconds)
        begun = False
        for line in output.splitlines():
            if (found := _said(line)) is None:
                continue
            if found.begun:
                begun = True
            elif found.backend and f"{found.backend.kind}:{found.backend.name}" == left[0]:
                yield found.backend
                left.pop(0)
                begun = False
        if left:
            kind, _, name = left.pop(0).partition(":")
            why = how if begun else f"{python} cannot run pytest_llmbench: {how}"
            yield Backend(kind=kind, name=name, trouble=why)


def _output(command: Sequence[str], timeout_seconds: float) -> tuple[str, str]:
    """Output of a child, and how it ended."""
    package = str(Path(__file__).parents[2])
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # as in the processes that measure
    }
    # What libraries say on the error stream is not of interest, and a process group of its own dies whole.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True, env=environ
    ) as child:
        try:
            output, _ = child.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            output, _ = child.communicate()
            return output, f"did not load within {timeout_seconds:.0f} s"
        return output, ended(child.returncode)


class _Said(msgspec.Struct):
    """A line of `worker.backends`."""

    begun: str = ""
    backend: Backend | None = None


def _said(line: str) -> _Said | None:
    """None for what a library printed in between."""
    try:
        return msgspec.json.decode(printable_json(line.encode()), type=_Said)
    except msgspec.DecodeError:
        return None
