"""
The devices that this process measures on, and everything read off them around the rounds.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch

from pytest_llmbench.host.distribution import origins
from pytest_llmbench.host.nvml import Gpu, GpuReading, Nvml, NvmlUnavailable, Occupancy, open_nvml
from pytest_llmbench.host.visible import visible_gpus
from pytest_llmbench.probes.allocator import AllocatorReading, read_allocator, reset_peaks
from pytest_llmbench.probes.canary import sing
from pytest_llmbench.probes.evidence import NVML_FIELDS, evidence, peak_footprint, process_tree
from pytest_llmbench.probes.timeline import MemoryTimeline
from pytest_llmbench.schema.case import CaseError
from pytest_llmbench.schema.environment import Environment, installed_packages
from pytest_llmbench.schema.measurement import Evidence, MemoryPoint
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.units import gib
from pytest_llmbench.schema.workload import Device

__all__ = ["Devices", "MetricReading"]

ENERGY_WINDOW_SECONDS = 10.0
"""NVML's energy counter ticks every 100 ms; a window this long keeps that error at one percent."""

MetricReading = tuple[str, "int | tuple[int, ...] | None", "str | None"]
"""A metric's name, its value, and the reason where there is none."""


class Devices:
    """
    One or more GPUs, or the CPU.

    Open it before CUDA is used: what NVML says then is the idle floor.

    Args:
        memory_bytes: that torch may take of each GPU; None for all of it.

    Raises:
        CaseError: the case needs more GPUs than this process sees, or more memory than they have.
    """

    def __init__(self, kind: Device, num_gpus: int, memory_bytes: int | None = None) -> None:
        self.num_gpus = num_gpus if kind == "cuda" else 0
        self.first = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
        self._is_fake = kind == "fake"
        self._closing = contextlib.ExitStack()
        self._nvml: Nvml | None = None
        self._gpus: tuple[Gpu, ...] = ()
        self._no_nvml = "measured on the CPU"
        self._idle: tuple[Occupancy, ...] = ()
        self._busy: tuple[Occupancy, ...] = ()
        self._before: tuple[GpuReading, ...] = ()
        self._after: tuple[GpuReading, ...] = ()
        self._millijoules: list[int] = []
        self._timeline = MemoryTimeline(self._allocator, lambda: self._used(self._occupancies()))
        if self.num_gpus:
            self._open_nvml()
            self._idle = self._occupancies()
            if torch.cuda.device_count() < num_gpus:
                raise CaseError(f"the case needs {num_gpus} GPUs, this process sees {torch.cuda.device_count()}")
            if memory_bytes is not None:
                _limit(num_gpus, memory_bytes)

    @property
    def all(self) -> tuple[torch.device, ...]:
        """The GPUs, or the CPU alone."""
        return tuple(torch.device("cuda", index) for index in range(self.num_gpus)) or (self.first,)

    def synchronise(self) -> None:
        """Wait until every device has done what it was told."""
        for index in range(self.num_gpus):
            torch.cuda.synchronize(index)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Around the measured rounds: what is read before and after them; memory noted within is of them."""
        self._timeline.begin_steady()
        self._before = self._readings()
        self._note_energy()
        yield
        self._note_energy()
        self._after = self._readings()
        self._busy = self._occupancies()
        self._timeline.fill_in(self._used(self._busy))

    def note_memory(self, phase: str, *, ask_nvml: bool = True) -> None:
        """Read what the stretch of *phase* that has just ended took; nothing on the CPU. NVML takes longest."""
        if self.num_gpus:
            self._timeline.note(phase, ask_nvml=ask_nvml)

    @property
    def memory(self) -> tuple[MemoryPoint, ...]:
        """What was noted."""
        return tuple(self._timeline.points)

    def memory_metrics(self) -> Iterator[MetricReading]:
        """Peaks of all that was noted, and of the rounds; also after the memory ran out."""
        names = ("peak_allocated_bytes", "peak_allocated_steady_bytes", "peak_reserved_bytes", "peak_footprint_bytes")
        if not self.num_gpus:
            yield from ((name, None, "measured on the CPU") for name in names)
            return
        yield names[0], self._timeline.peak_allocated_bytes, "nothing was built"
        yield names[1], self._timeline.peak_allocated_steady_bytes, "the rounds were not reached"
        yield names[2], self._timeline.peak_reserved_bytes, "nothing was built"
        yield names[3], *self._footprint(read_allocator(self.num_gpus))

    def energy_joules(self, seconds: float) -> tuple[float | None, str | None]:
        """Energy of the rounds on all GPUs, or None and why; *seconds* is how long they took."""
        if len(self._millijoules) < 2:
            return None, self._no_nvml or "NVML gives no energy counter here"
        if seconds < ENERGY_WINDOW_SECONDS:
            return (
                None,
                f"the measured rounds took {seconds:.1f} s; the energy counter needs {ENERGY_WINDOW_SECONDS:.0f} s",
            )
        return (self._millijoules[-1] - self._millijoules[0]) / 1000, None

    def evidence(self) -> tuple[Evidence, dict[str, str]]:
        """What NVML and the allocator said, and reasons for what they did not."""
        if not self._busy:
            reason = self._no_nvml or "the measured rounds were not finished"
            found, missing = Evidence(), dict.fromkeys(("cards", *NVML_FIELDS), reason)
        else:
            own = process_tree(os.getpid())
            found, missing = evidence(self._idle, self._busy, self._before, self._after, own)
            found = msgspec.structs.replace(found, cards=tuple(map(_card, self._gpus)))
        if not self.num_gpus:
            return found, missing | dict.fromkeys(("allocation_retries", "freed_segments"), "measured on the CPU")
        now = read_allocator(self.num_gpus)
        return msgspec.structs.replace(
            found, allocation_retries=now.retries, freed_segments=now.freed_segments
        ), missing

    def canary(self) -> Iterator[tuple[str, tuple[float, ...] | None, str | None]]:
        """What a matrix product and a copy reach on each GPU now, by fields of `Evidence`; a fraction of a second."""
        names = ("canary_flops_per_second", "canary_copy_bytes_per_second")
        if not self.num_gpus:
            yield from ((name, None, "measured on the CPU") for name in names)
            return
        gc.collect()  # what the case leaves in cycles is memory that the canary may need
        try:
            torch.cuda.empty_cache()
            sung = [sing(index) for index in range(self.num_gpus)]
        except RuntimeError as error:
            yield from ((name, None, f"{type(error).__name__}: {error}".splitlines()[0]) for name in names)
            return
        yield names[0], tuple(one.matmul_flops_per_second for one in sung), None
        yield names[1], tuple(one.copy_bytes_per_second for one in sung), None

    def environment(self, request: Request) -> Environment:
        """The fingerprint of this machine and interpreter; without NVML, asking for it starts CUDA."""
        packages = installed_packages(request.case)
        first = self._gpus[0] if self._gpus else None
        limits = self._after or self._readings()
        name = "fake" if self._is_fake else "cpu"
        total = request.workload.memory_bytes if self._is_fake else None
        if self.num_gpus:
            name = first.name if first else torch.cuda.get_device_name(0)
            total = first.total_memory_bytes if first else torch.cuda.get_device_properties(0).total_memory
        if (memory_bytes := request.workload.memory_bytes) is not None:
            name = f"{name}, {gib(memory_bytes)} GiB"
        return Environment(
            device=name,
            num_devices=request.case.num_gpus if self._is_fake else max(self.num_gpus, 1),
            device_memory_bytes=total,
            driver=first.driver if first else None,
            cuda=torch.version.cuda,
            power_limit_watts=limits[0].power_limit_watts if limits else None,
            allocator=_allocator_settings(),
            python=platform.python_version(),
            cpu=_cpu_name(),
            num_cpus=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
            system=f"{platform.system()} {platform.release()}",
            packages=packages,
            origins=origins(packages),
            repository=request.repository,
            ci=request.ci,
        )

    def _open_nvml(self) -> None:
        try:
            self._nvml = self._closing.enter_context(open_nvml())
            self._gpus = visible_gpus(self._nvml, os.environ)[: self.num_gpus]
            self._no_nvml = ""
        except NvmlUnavailable as error:
            self._nvml, self._gpus, self._no_nvml = None, (), str(error)

    def _occupancies(self) -> tuple[Occupancy, ...]:
        return tuple(self._nvml.occupancy(gpu) for gpu in self._gpus) if self._nvml else ()

    def _allocator(self) -> AllocatorReading:
        """Its peaks are those since it was last read here."""
        reading = read_allocator(self.num_gpus)
        reset_peaks(self.num_gpus)
        return reading

    def _used(self, occupancies: tuple[Occupancy, ...]) -> tuple[int, ...] | None:
        used = tuple(one.used_bytes for one in occupancies if one.used_bytes is not None)
        return used if len(used) == self.num_gpus else None

    def _readings(self) -> tuple[GpuReading, ...]:
        return tuple(self._nvml.reading(gpu) for gpu in self._gpus) if self._nvml else ()

    def _note_energy(self) -> None:
        if self._nvml:
            with contextlib.suppress(NvmlUnavailable):
                self._millijoules.append(sum(self._nvml.energy_millijoules(gpu) for gpu in self._gpus))

    def _footprint(self, now: AllocatorReading) -> tuple[tuple[int, ...] | None, str | None]:
        if not self._idle:
            return None, self._no_nvml
        own = process_tree(os.getpid())
        pairs = zip(self._idle, self._busy or self._occupancies(), now.reserved_bytes, strict=True)
        found = [peak_footprint(idle, busy, own, reserved_bytes=reserved) for idle, busy, reserved in pairs]
        reason = next((one.missing for one in found if one.missing), None)
        if now.retries or now.freed_segments:
            reason = reason or "torch gave memory back in between, so what NVML shows now is not the peak"
        peaks = tuple(one.peak_bytes for one in found if one.peak_bytes is not None)
        return (None, reason) if reason else (peaks, None)


def _limit(num_gpus: int, memory_bytes: int) -> None:
    """Have torch's allocator fail where it would take more of a GPU."""
    for index in range(num_gpus):
        total = torch.cuda.get_device_properties(index).total_memory
        if memory_bytes > total:
            raise CaseError(f"the GPU has {gib(total)} GiB, and {gib(memory_bytes)} GiB were asked for")
        torch.cuda.set_per_process_memory_fraction(memory_bytes / total, index)


def _allocator_settings() -> dict[str, str]:
    """What steers torch's caching allocator; settings that are not made are not named."""
    names = (
        "PYTORCH_ALLOC_CONF",
        "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
        "CUBLAS_WORKSPACE_CONFIG",
    )
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _cpu_name() -> str:
    """The model that Linux names, or what Python knows of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _card(gpu: Gpu) -> str:
    """Tells it from others of its kind."""
    return hashlib.sha256(gpu.uuid.encode()).hexdigest()[:8]
