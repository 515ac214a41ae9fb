"""
The process above a server: what a server that is killed leaves behind becomes its child, and is ended by it.

Such a process may have left its session and dropped its environment; an ancestor finds it all the same.
"""

from __future__ import annotations

import os
import resource
import select
import signal
from contextlib import suppress
from typing import NoReturn

from pytest_llmbench.worker import descendants

__all__ = ["keep"]


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
    descendants.adopt_orphans()
    pid = os.fork()
    if pid:
        _await_end(pid, executor)
        _end_as(os.waitstatus_to_exitcode(descendants.end_all()[pid]))
    descendants.die_with(keeper)
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
