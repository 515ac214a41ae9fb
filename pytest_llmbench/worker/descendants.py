"""
Holding on to everything a measuring process starts, so that all of it can be ended.

A process that left its group and its session still has an ancestor: Linux hands the orphans of a
dead process to the nearest ancestor that asked for them. Above a server that is its keeper: what a server that is
killed leaves behind becomes its child, and is ended by it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
from contextlib import suppress
from typing import NoReturn

from pytest_llmbench.probes.evidence import parents

__all__ = ["adopt_orphans", "die_with", "end_all", "keep", "reap"]

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


class _Stopped(Exception):
    """The executor wants everything ended."""


def keep() -> None:
    """
    Fork. The new process returns, to be the server; this one waits for its end and ends as it did.

    The death of the executor, and SIGTERM, end the server and everything below it, too.
    """
    executor: int | None = None
    with suppress(AttributeError, OSError):  # Linux before 5.3
        executor = os.pidfd_open(os.getppid())
    keeper = os.getpid()
    adopt_orphans()
    pid = os.fork()
    if pid:
        _await_end(pid, executor)
        _end_as(os.waitstatus_to_exitcode(end_all()[pid]))
    die_with(keeper)
    if executor is not None:
        os.close(executor)


def _await_end(pid: int, executor: int | None) -> None:
    """Return when the server is gone or to be ended; it is not waited for."""

    def stop(*_: object) -> NoReturn:
        raise _Stopped

    with suppress(_Stopped):
        signal.signal(signal.SIGTERM, stop)
        if executor is None:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        else:
            poller = select.poll()
            poller.register(executor, select.POLLIN)
            poller.register(os.pidfd_open(pid), select.POLLIN)
            poller.poll()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_as(exit_status: int) -> NoReturn:
    """End this process as the server ended, which its parent asks for; *exit_status* as `subprocess` gives it."""
    if exit_status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the server has left one
        with suppress(OSError):  # SIGKILL is as it should be
            signal.signal(-exit_status, signal.SIG_DFL)
        os.kill(os.getpid(), -exit_status)
    os._exit(exit_status)
