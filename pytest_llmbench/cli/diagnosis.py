"""
What stands between this machine and a measurement: GPUs, NVML, other processes, libraries and backends.

Imports none of the libraries that are measured: a child process of the environment's interpreter does, since a
broken library may kill its own.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

import msgspec

from pytest_llmbench.executors.machine import STACK
from pytest_llmbench.host.nvml import Gpu, GpuReading, Nvml, NvmlUnavailable, open_nvml
from pytest_llmbench.host.visible import visible_gpus
from pytest_llmbench.schema.case import BuiltInAttention, BuiltInQuantization
from pytest_llmbench.schema.extensions import offered
from pytest_llmbench.schema.libraries import LIBRARIES
from pytest_llmbench.schema.metrics import add_extensions
from pytest_llmbench.schema.protocol import ended
from pytest_llmbench.schema.text import printable_json
from pytest_llmbench.schema.units import size

__all__ = ["Backend", "Diagnosis", "GpuState", "check_backends", "diagnose", "steering_variables"]

_WATCH_SECONDS = 0.3
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""Namespace of every Linux kernel in which PID 1 is the machine's own."""
_IDLE_BYTES = 2**30
"""Memory in use above which an idle GPU is somebody's."""


class GpuState(msgspec.Struct, frozen=True, kw_only=True):
    """One visible GPU; what NVML does not say is None, and `missing` has the reason."""

    index: int
    uuid: str
    name: str
    total_bytes: int | None
    used_bytes: int | None
    driver_reserved_bytes: int | None
    processes: dict[int, int | None] | None
    """Bytes by PID."""
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_celsius: int | None
    power_watts: float | None
    power_limit_watts: float | None
    held_down_by: tuple[str, ...]
    """Reasons that slowed its clocks while it was watched for a third of a second."""
    energy_counter: bool
    missing: dict[str, str]


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


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `llmbench doctor` knows."""

    device: Literal["cuda", "cpu"]
    """Device for which it was asked."""
    python: str
    system: str
    cpus: int
    nvml_binding: str | None
    """Version of nvidia-ml-py."""
    driver: str | None
    no_gpu: str | None
    """Why there is none to measure on."""
    gpus: tuple[GpuState, ...]
    own_pid_namespace: bool | None
    """Whether this is a container whose PIDs are not the machine's; None where that cannot be told."""
    variables: dict[str, str]
    """Environment variables that steer CUDA and torch's allocator."""
    backends: tuple[Backend, ...]

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why no measurement can run; empty if one can."""
        found = [f"no CUDA device: {self.no_gpu}"] if self.device == "cuda" and self.no_gpu else []
        for backend in self.backends:
            needed = (backend.kind == "library" and backend.name in STACK) or backend.kind == "device"
            if needed and not backend.usable:
                name = f"torch on {backend.name}" if backend.kind == "device" else backend.name
                found.append(f"{name}: {backend.absent or backend.trouble}")
        return tuple(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what would spoil a measurement that can run."""
        found = [*add_extensions()]
        for gpu in self.gpus:
            if gpu.processes:
                found.append(
                    f"GPU {gpu.index} is used by {len(gpu.processes)} other processes; measure on one of your own"
                )
            elif gpu.used_bytes is not None and gpu.used_bytes > _IDLE_BYTES:
                found.append(f"GPU {gpu.index} has {size(gpu.used_bytes)} in use, by nobody that can be seen from here")
            found += [
                f"GPU {gpu.index} is idle and its clocks are held down by {reason}" for reason in gpu.held_down_by
            ]
        return tuple(found)


def diagnose(device: Literal["cuda", "cpu"], python: str = sys.executable, timeout_seconds: float = 180.0) -> Diagnosis:
    """
    Look at this machine. Takes as long as importing the libraries does, on a GPU node some 20 s.

    Args:
        device: what is to be measured on.
        python: the interpreter that would measure.
        timeout_seconds: for the libraries and backends to load; the one at which it is over is blamed.
    """
    gpus, driver, no_gpu = _gpus()
    checks = [f"library:{library.modules[0]}" for library in LIBRARIES if library.is_checked]
    if device == "cpu" or not no_gpu:
        checks.append(f"device:{device}")
    checks += [f"attention:{name}" for name in (*get_args(BuiltInAttention), *offered("attentions"))]
    checks += [f"quantization:{name}" for name in (*get_args(BuiltInQuantization), *offered("quantizations"))]
    checks += [f"model:{name}" for name in offered("models")]
    return Diagnosis(
        device=device,
        python=f"{platform.python_version()} ({python})",
        system=f"{platform.system()} {platform.release()}",
        cpus=len(os.sched_getaffinity(0)),
        nvml_binding=_version("nvidia-ml-py"),
        driver=driver,
        no_gpu=no_gpu or None,
        gpus=gpus,
        own_pid_namespace=_own_pid_namespace(),
        variables=steering_variables(os.environ),
        backends=tuple(check_backends(checks, python, timeout_seconds)),
    )


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


def steering_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of CUDA, of torch and of its allocator."""
    prefixes = ("CUDA_", "PYTORCH_", "TORCH_", "NVIDIA_VISIBLE")
    return {name: value for name, value in sorted(environ.items()) if name.startswith(prefixes)}


def _gpus() -> tuple[tuple[GpuState, ...], str | None, str]:
    """The visible GPUs, the driver, and why there is no GPU."""
    try:
        with open_nvml() as nvml:
            gpus = visible_gpus(nvml, os.environ)
            before = [nvml.reading(gpu) for gpu in gpus]
            time.sleep(_WATCH_SECONDS if gpus else 0)
            states = tuple(_state(nvml, gpu, one) for gpu, one in zip(gpus, before, strict=True))
    except NvmlUnavailable as error:
        return (), None, str(error)
    driver = gpus[0].driver if gpus else None
    return states, driver, "" if gpus else "CUDA_VISIBLE_DEVICES hides every GPU"


def _state(nvml: Nvml, gpu: Gpu, before: GpuReading) -> GpuState:
    now, occupancy = nvml.reading(gpu), nvml.occupancy(gpu)
    missing = {**now.missing, **occupancy.missing}
    try:
        nvml.energy_millijoules(gpu)
    except NvmlUnavailable as error:
        missing["energy_counter"] = str(error)
    return GpuState(
        index=gpu.index,
        uuid=gpu.uuid,
        name=gpu.name,
        total_bytes=occupancy.total_bytes,
        used_bytes=occupancy.used_bytes,
        driver_reserved_bytes=occupancy.driver_reserved_bytes,
        processes=occupancy.process_bytes,
        sm_clock_mhz=now.sm_clock_mhz,
        memory_clock_mhz=now.memory_clock_mhz,
        temperature_celsius=now.temperature_celsius,
        power_watts=now.power_watts,
        power_limit_watts=now.power_limit_watts,
        held_down_by=tuple(_held_down_by(before, now)),
        energy_counter="energy_counter" not in missing,
        missing=missing,
    )


def _held_down_by(before: GpuReading, now: GpuReading) -> Iterator[str]:
    counters = {
        "its power cap": (before.power_cap_ns, now.power_cap_ns),
        "its temperature": (before.sw_thermal_ns, now.sw_thermal_ns),
        "its temperature, by the hardware": (before.hw_thermal_ns, now.hw_thermal_ns),
        "the machine's power supply": (before.hw_power_brake_ns, now.hw_power_brake_ns),
    }
    for reason, (then, later) in counters.items():
        if then is not None and later is not None and later > then:
            yield reason


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _own_pid_namespace() -> bool | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink()) != _INITIAL_PID_NAMESPACE
    except OSError:
        return None
