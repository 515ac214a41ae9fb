"""This machine: its GPUs, which runs take in turns, or its CPU, and the libraries to measure with."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import msgspec

from pytest_llmbench.executors import NotMeasurable, SetupError
from pytest_llmbench.executors.lease import lease
from pytest_llmbench.executors.local import MEASURE, PRELOAD, LocalExecutor
from pytest_llmbench.executors.neighbours import among_others
from pytest_llmbench.host.distribution import origins
from pytest_llmbench.host.nvml import Gpu, NvmlUnavailable, open_nvml
from pytest_llmbench.host.visible import visible_gpus
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment, installed_packages
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.units import gib
from pytest_llmbench.schema.workload import Device

__all__ = ["STACK", "Machine", "usable_gpus"]

STACK = ("torch", "transformers", "peft", "accelerate")
"""What a built-in case needs; a custom step needs only the first of them."""


class Machine:
    """
    An executor that measures in local processes, on as many of the visible GPUs as the case uses.

    `run` may be called from several threads at once, each of which then has a server of its own.
    Of GPUs of different models only those like the first are used: a row is measured on one model.

    Args:
        device: what to measure on.
        timeout_seconds: deadline of a case, from the request to the end of its process.
        announce: called with a sentence when something is not as it was asked for, in the thread of `run`.
        measure: `module:function` that measures, see `LocalExecutor`.
        preload: modules that servers import, see `LocalExecutor`.
        path: folders with modules of the user's own, beside those of this process.
    """

    def __init__(
        self,
        device: Device,
        *,
        timeout_seconds: float,
        announce: Callable[[str], None],
        measure: str = MEASURE,
        preload: Sequence[str] = PRELOAD,
        path: Sequence[str] = (),
    ) -> None:
        self._device = device
        self._timeout_seconds = timeout_seconds
        self._measure = measure
        self._preload = preload
        self._path = path
        self._guard = threading.Lock()
        self._idle: list[LocalExecutor] = []
        self._busy: list[LocalExecutor] = []
        self._closed = False
        self.look_again(announce)

    def __str__(self) -> str:
        if self._device != "cuda":
            return "CPU" if self._device == "cpu" else "tensors without content"
        if not self._gpus:
            return "no CUDA device"
        first = self._gpus[0]
        memory = f" ({gib(first.total_memory_bytes)} GiB)" if first.total_memory_bytes else ""
        return f"{first.name}{memory}" + (f" x {len(self._gpus)}" if len(self._gpus) > 1 else "")

    def look_again(self, announce: Callable[[str], None]) -> None:
        """The environment variables that show this process GPUs have changed, or who is announced to."""
        self._announce = announce
        self._gpus, self.no_gpu = usable_gpus() if self._device == "cuda" else ((), "")
        """`no_gpu` is why there is nothing to measure on, or empty."""

    @property
    def num_gpus(self) -> int:
        """GPUs that cases can have."""
        return len(self._gpus)

    @property
    def most_at_once(self) -> int:
        """Cases that do not disturb each other without a GPU: one, and on tensors without content one for each core."""
        return len(os.sched_getaffinity(0)) if self._device == "fake" else 1

    def width(self, case: Case) -> int:
        """GPUs that *case* uses, or on the CPU the processes that compute."""
        if self._device == "fake":
            return 1
        return case.num_ranks if self._device == "cpu" else case.num_gpus

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        """
        Measure *request* once; see `Executor.run`. Waits for GPUs that another run of this user holds.
        """
        if self._device != "cuda":
            self._check_installed(request.case)
            return self._measured(request, on_phase)
        if self.no_gpu:
            raise NotMeasurable(f"no CUDA device; --llmbench-scale=smoke runs miniatures on the CPU ({self.no_gpu})")
        count = request.case.num_gpus
        if len(self._gpus) < count:
            raise NotMeasurable(f"needs {count} GPUs, {len(self._gpus)} visible")
        self._check_installed(request.case)
        with lease([gpu.uuid for gpu in self._gpus], self._announce, count=count) as chosen:
            return self._measured(msgspec.structs.replace(request, visible_devices=",".join(chosen)), on_phase)

    def close(self) -> None:
        """End every process. From another thread than that of `run`: its case ends as crashed."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
            for local in self._busy:
                local.stop()
        for local in idle:
            local.close()

    def is_as_in(self, environment: Environment | None, case: Case) -> bool:
        """
        Whether *case*, measured in *environment*, would be measured with the same packages and device today.

        True where this machine has nothing to measure on, and so nothing to set against it.
        """
        if self.no_gpu:
            return True
        device = self._gpus[0].name if self._gpus else self._device
        if environment is None or environment.device.partition(",")[0] != device:
            return False
        packages = installed_packages(case)
        return environment.packages == packages and environment.origins in (None, origins(packages))

    def _measured(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        with self._local() as local:
            return among_others(local.run, request, on_phase)

    @contextmanager
    def _local(self) -> Iterator[LocalExecutor]:
        """One with a warm server, if there is one that no other thread uses."""
        with self._guard:
            local = self._idle.pop() if self._idle else self._new()
            self._busy.append(local)
            if self._closed:
                local.stop()
        try:
            yield local
        finally:
            with self._guard:
                self._busy.remove(local)
                is_over = self._closed
                if not is_over:
                    self._idle.append(local)
            if is_over:
                local.close()

    def _new(self) -> LocalExecutor:
        return LocalExecutor(
            timeout_seconds=self._timeout_seconds,
            announce=self._tell,
            measure=self._measure,
            preload=self._preload,
            environ=_environ(self._path),
        )

    def _tell(self, sentence: str) -> None:
        self._announce(sentence)

    def _check_installed(self, case: Case) -> None:
        if self._measure != MEASURE:
            return  # what that needs is not known here
        missing = [name for name in (STACK[:1] if case.step else STACK) if find_spec(name) is None]
        if missing:
            raise SetupError(f"{', '.join(missing)} not installed; pip install 'pytest-llmbench[train]'")


def _environ(path: Sequence[str]) -> dict[str, str]:
    return {
        **os.environ,
        # A custom step is imported where the test that names it is.
        "PYTHONPATH": os.pathsep.join(filter(None, [*path, *sys.path, os.environ.get("PYTHONPATH")])),
    }


def usable_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that rows are measured on: the visible ones of the first one's model; and why, if there are none."""
    try:
        with open_nvml() as nvml:
            gpus = visible_gpus(nvml, os.environ)
    except NvmlUnavailable as error:
        return (), str(error)
    if not gpus:
        return (), "CUDA_VISIBLE_DEVICES hides every GPU"
    return tuple(gpu for gpu in gpus if gpu.name == gpus[0].name), ""
