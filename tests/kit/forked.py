"""Runs of pytest that measure in a fork of the test's own process, which has imported torch already."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import add_extensions
from pytest_llmbench.schema.protocol import Phase, Request

__all__ = ["pytest_llmbench_executor", "run_forked"]


class Here:
    """Measures in the process of pytest."""

    def __str__(self) -> str:
        return "CPU, in this process"

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        from pytest_llmbench.worker.entry import measure

        return measure(request, lambda told: on_phase(told) if isinstance(told, Phase) else None)

    def close(self) -> None:
        """Nothing was opened."""


def pytest_llmbench_executor() -> Here:
    return Here()


def run_forked(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """A run in the folder of *pytester*; whatever it imports or registers ends with it."""
    answer = Path(pytester.path, "answer.pickle")
    pid = os.fork()
    if pid == 0:
        try:
            sys.path.insert(0, str(pytester.path))
            add_extensions.cache_clear()  # the packages of the parent were not on this path
            done = pytester.runpytest_inprocess("-p", "pytest_llmbench.plugin", "-p", "forked", *options)
            answer.write_bytes(pickle.dumps((done.ret, done.outlines, done.errlines, done.duration)))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pytest.RunResult(*pickle.loads(answer.read_bytes()))
