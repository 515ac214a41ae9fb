"""This machine: its GPUs, which runs take in turns, or its CPU, and the libraries to measure with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import msgspec

from pytest_llmbench.cases import Case
from pytest_llmbench.environment import Environment, installed_packages
from pytest_llmbench.executors import NotMeasurable, SetupError
from pytest_llmbench.executors.lease import LeaseFolderError, lease
from pytest_llmbench.executors.local import LocalExecutor, UnsupportedSystemError
from pytest_llmbench.measurement import Measurement
from pytest_llmbench.probes.gpus import visible_gpus
from pytest_llmbench.probes.nvml import Gpu, NvmlUnavailable, open_nvml
from pytest_llmbench.protocol import Phase, Request
from pytest_llmbench.units import gib

__all__ = ["STACK", "Machine"]

STACK = ("torch", "transformers", "peft", "accelerate")
"""What a built-in case needs; a custom step needs only the first of them."""


class Machine:
    """
    An executor that measures in local processes, on as many of the visible GPUs as the case uses.

    Args:
        device: what to measure on.
        timeout_seconds: deadline of a case, from the request to the end of its process.
        announce: called with a sentence when something is not as it was asked for.
    """

    def __init__(
        self, device: Literal["cuda", "cpu"], *, timeout_seconds: float, announce: Callable[[str], None]
    ) -> None:
        self._device = device
        self._timeout_seconds = timeout_seconds
        self._announce = announce
        self._local: LocalExecutor | None = None
        self._gpus, self.no_gpu = _find_gpus() if device == "cuda" else ((), "")
        """`no_gpu` is why there is nothing to measure on, or empty."""

    def __str__(self) -> str:
        if self._device == "cpu":
            return "CPU"
        if not self._gpus:
            return "no CUDA device"
        first = self._gpus[0]
        memory = f" ({gib(first.total_memory_bytes)} GiB)" if first.total_memory_bytes else ""
        return f"{first.name}{memory}" + (f" x {len(self._gpus)}" if len(self._gpus) > 1 else "")

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        """
        Measure *request* once; see `Executor.run`. Waits for GPUs that another run of this user holds.
        """
        if self._device == "cpu":
            return self._started(request.case).run(request, on_phase)
        if self.no_gpu:
            raise NotMeasurable(f"no CUDA device; --llmbench-scale smoke runs miniatures on the CPU ({self.no_gpu})")
        if len(self._gpus) < request.case.num_gpus:
            raise NotMeasurable(f"needs {request.case.num_gpus} GPUs, {len(self._gpus)} visible")
        local = self._started(request.case)
        chosen = [gpu.uuid for gpu in self._gpus[: request.case.num_gpus]]
        try:
            with lease(chosen, self._announce):
                return local.run(msgspec.structs.replace(request, visible_devices=",".join(chosen)), on_phase)
        except LeaseFolderError as error:
            raise SetupError(str(error)) from None

    def close(self) -> None:
        if self._local is not None:
            self._local.close()

    def is_as_in(self, environment: Environment | None) -> bool:
        """
        Whether what was measured in *environment* would be measured with the same packages and device today.

        True where this machine has nothing to measure on, and so nothing to set against it.
        """
        if self.no_gpu:
            return True
        device = self._gpus[0].name if self._gpus else "cpu"
        return environment is not None and environment.device == device and environment.packages == installed_packages()

    def _started(self, case: Case) -> LocalExecutor:
        missing = [name for name in (STACK[:1] if case.step else STACK) if find_spec(name) is None]
        if missing:
            raise SetupError(f"{', '.join(missing)} not installed; pip install 'pytest-llmbench[train]'")
        if self._local is None:
            try:
                self._local = LocalExecutor(
                    timeout_seconds=self._timeout_seconds, announce=self._announce, environ=_environ()
                )
            except UnsupportedSystemError as error:
                raise SetupError(str(error)) from None
        return self._local


def _environ() -> dict[str, str]:
    return {
        **os.environ,
        # A custom step is imported where the test that names it is.
        "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, os.environ.get("PYTHONPATH")])),
        # Asking CUDA how many GPUs there are, as peft does when imported, would spoil it for forked processes.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }


def _find_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that a measuring process would see, and why if there are none."""
    try:
        with open_nvml() as nvml:
            gpus = visible_gpus(nvml, os.environ)
    except NvmlUnavailable as error:
        return (), str(error)
    return gpus, "" if gpus else "CUDA_VISIBLE_DEVICES hides every GPU"
