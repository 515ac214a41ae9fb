"""
How many machine instructions the host executes in a stretch of training, where the kernel lets a process count its own.

`perf_event_open(2)`, by its number, since Python has no binding: one counter per thread, in user space only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path

from pytest_llmbench.probes.recorder import NotCounted, Recorder

__all__ = ["HARDWARE_INSTRUCTIONS", "Event", "InstructionRecorder"]

_SYSCALL = {"x86_64": 298, "aarch64": 241}
"""Numbers of perf_event_open."""
_SIZE = 112
"""Of perf_event_attr in its fifth version, which kernels since 4.1 know."""
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 1, 1 << 5, 1 << 6
_CLOSE_ON_EXEC = 1 << 3

Event = tuple[int, int]
"""Type and number of what is counted, as in `linux/perf_event.h`."""
HARDWARE_INSTRUCTIONS: Event = (0, 1)


class InstructionRecorder(Recorder):
    """
    Counts in the micro-batches and in the optimizer step, in all threads that there are and that they start.

    Args:
        event: what is counted.

    Raises:
        NotCounted: this kernel, machine or container does not count it.
    """

    def __init__(self, event: Event = HARDWARE_INSTRUCTIONS) -> None:
        self.micro_batches = 0
        self.optimizer_step = 0
        self._event = event
        self._counters: list[int] = []
        self._before = 0
        os.close(_open(event, os.getpid()))

    def begin(self) -> None:
        for thread in _threads():
            try:
                self._counters.append(_open(self._event, thread))
            except ProcessLookupError:
                continue  # it has ended meanwhile
        self._before = self._read()

    def boundary(self) -> None:
        now = self._read()
        self.micro_batches, self._before = now - self._before, now

    def end(self) -> None:
        self.optimizer_step = self._read() - self._before

    def __exit__(self, *_: object) -> None:
        while self._counters:
            os.close(self._counters.pop())

    def _read(self) -> int:
        return sum(int.from_bytes(os.read(counter, 8), "little") for counter in self._counters)


def _threads() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/task").iterdir()]


def _open(event: Event, thread: int) -> int:
    """The descriptor of a counter of one thread, running."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise NotCounted(f"instructions are not counted on {platform.machine()}")
    kind, config = event
    attributes = struct.pack("IIQQQQQ", kind, _SIZE, config, 0, 0, 0, _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HV)
    call = ctypes.CDLL(None, use_errno=True).syscall
    counter: int = call(number, attributes.ljust(_SIZE, b"\0"), thread, -1, -1, ctypes.c_ulong(_CLOSE_ON_EXEC))
    if counter < 0:
        error = ctypes.get_errno()
        if error == errno.ESRCH:
            raise ProcessLookupError(error, os.strerror(error))
        raise NotCounted(f"the kernel does not count them here: {os.strerror(error)}{_hint(error)}")
    return counter


def _hint(error: int) -> str:
    if error == errno.ENOENT:
        return ", as in a virtual machine that is given no counters"
    if error in (errno.EACCES, errno.EPERM):
        return "; lower kernel.perf_event_paranoid to 2, or allow perf_event_open in the container"
    return ""
