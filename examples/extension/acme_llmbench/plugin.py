"""An executor: this machine's, with a line for each case in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_llmbench.executors import Executor
    from pytest_llmbench.schema.measurement import Measurement
    from pytest_llmbench.schema.protocol import Phase, Request


class Logged:
    """Any executor, watched."""

    def __init__(self, executor: Executor, path: Path) -> None:
        self._executor = executor
        self._path = path

    def __str__(self) -> str:
        return f"{self._executor}, logged to {self._path}"

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        measurement = self._executor.run(request, on_phase)
        with self._path.open("a") as stream:
            stream.write(f"{request.case.model}: {measurement.outcome}\n")
        return measurement

    def close(self) -> None:
        self._executor.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--acme-log", type=Path, metavar="FILE", help="write a line for each case to FILE")


def pytest_llmbench_executor(config: pytest.Config) -> Executor | None:
    path = config.getoption("--acme-log")
    if path is None:
        return None  # the next one may have one
    from pytest_llmbench.executors.machine import Machine

    device = "cpu" if config.getoption("--llmbench-scale") == "smoke" else "cuda"
    return Logged(Machine(device, timeout_seconds=600, announce=print), path)
