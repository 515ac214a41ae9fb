"""
Holding on to everything a measuring process starts, so that all of it can be ended.

A process that left its group and its session still has an ancestor: Linux hands the orphans of a
dead process to the nearest ancestor that asked for them.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress

from pytest_llmbench.probes.evidence import parents

__all__ = ["adopt_orphans", "die_with", "end_all", "reap"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when *parent*, its parent's process id, dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def reap() -> dict[int, int]:
    """Process id to wait status of the children that have ended, without waiting for any."""
    statuses = {}
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            statuses[ended[0]] = ended[1]
    return statuses


def end_all() -> dict[int, int]:
    """
    Kill this process's descendants until none is left, and wait for them.

    Returns:
        Process id to wait status of those that were direct children or became so.
    """
    statuses = reap()
    while True:
        for pid, parent in parents().items():
            if parent == os.getpid():
                os.kill(pid, signal.SIGKILL)
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return statuses
        statuses |= {pid: status} | reap()


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")
