"""Forks of the test's own process, which has imported what takes long, in the place of new processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import pytest

import marked

__all__ = ["Fork", "run_pytest"]


class Fork:
    """
    A fork of this process with a session of its own, as `subprocess.Popen` would have it.

    Args:
        life: what it does; it ends with the status of a `SystemExit`.
        said: file descriptors that take its output and its errors.
        kept: file descriptors that stay open.
    """

    def __init__(self, life: Callable[[], object], said: tuple[int, int], kept: Sequence[int] = ()) -> None:
        self._status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of other threads, Python 3.12
            self._pid = os.fork()
        if not self._pid:
            _live(life, said, kept)

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self, timeout: float = float("inf")) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        if self._status is None:
            os.kill(self._pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_pytest(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """A run in the folder of *pytester*, as `runpytest_subprocess` makes one."""
    started = time.perf_counter()
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    try:
        status = Fork(partial(_run_pytest, f"--basetemp={pytester.path / 'runpytest'}", *arguments), (out, err)).wait()
        return pytest.RunResult(status, _lines(out), _lines(err), time.perf_counter() - started)
    finally:
        os.close(out)
        os.close(err)


def _lines(file: int) -> list[str]:
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace").splitlines()


def _run_pytest(*arguments: str) -> NoReturn:
    sys.exit(int(pytest.main([*arguments])))


def _live(life: Callable[[], object], said: tuple[int, int], kept: Sequence[int]) -> NoReturn:
    """Be the fork."""
    status: object = 1
    try:
        os.setsid()
        marked.heed_signals()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for here, there in enumerate(said, 1):
            os.dup2(there, here)
        for one in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            if one > 2 and one not in kept:
                with contextlib.suppress(OSError):  # that of the listing
                    os.close(one)
        sys.stdout, sys.stderr = (open(one, "w", buffering=1, closefd=False) for one in (1, 2))  # noqa: SIM115
        warnings.simplefilter("ignore")
        life()
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:  # noqa: BLE001 - nothing may climb back into the tests
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)
