"""
What measuring a case gave: raw samples and metrics per process, an outcome, the environment.

Everything here is a frozen value with a strict JSON form. Unknown is None with a reason, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.estimate import Estimate
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.profile import Profile
from pytest_llmbench.schema.workload import Workload, workload_hash

__all__ = [
    "AllocationShare",
    "Evidence",
    "KernelShare",
    "Measurement",
    "MemoryPoint",
    "Outcome",
    "Process",
    "Round",
    "failed",
    "fullest",
    "joined",
    "now",
    "thinned",
]

Outcome = Literal["ok", "oom", "crashed", "timeout", "diverged", "unavailable", "invalid"]


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One timed stretch of whole optimizer steps, between two synchronisations."""

    seconds: float
    samples: int
    tokens: int
    """Padding left out."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What the GPU and the allocator said while a process measured: grounds to trust it or not.

    One entry per device where a field is a tuple. None where it could not be read; `Process.missing`
    has the reason under the field's name.
    """

    cards: tuple[str, ...] | None = None
    """Which GPUs they were: eight hexadecimal digits of a hash of each one's UUID."""
    idle_used_bytes: tuple[int, ...] | None = None
    """NVML v2 used memory before this process touched the GPU."""
    driver_reserved_bytes: tuple[int, ...] | None = None
    foreign_processes: tuple[int, ...] | None = None
    """Processes other than ours on the GPU, counted before and after, the larger."""
    sm_clock_mhz: tuple[int, ...] | None = None
    """Right after the measured rounds."""
    memory_clock_mhz: tuple[int, ...] | None = None
    power_watts: tuple[float, ...] | None = None
    temperature_celsius: tuple[int, ...] | None = None
    power_cap_seconds: tuple[float, ...] | None = None
    """Time within the measured rounds that software power capping held the clocks down."""
    thermal_slowdown_seconds: tuple[float, ...] | None = None
    hardware_slowdown_seconds: tuple[float, ...] | None = None
    allocation_retries: int | None = None
    freed_segments: int | None = None
    canary_flops_per_second: tuple[float, ...] | None = None
    """What a matrix product reached after the case, see `probes.canary`."""
    canary_copy_bytes_per_second: tuple[float, ...] | None = None
    busy_seconds_per_sample: tuple[float, ...] | None = None
    """
    What `device_busy_seconds_per_sample` is made up of: each GPU's own. Of ranks, over the samples of the
    rank.
    """
    recompilations: int | None = None
    """Graphs that torch.compile compiled within the measured rounds; of all ranks together."""


class KernelShare(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the kernels of one family cost, written as `[name, launches, seconds]`."""

    name: str
    """See `probes.kernels.family`; `other` stands for all that are not listed."""
    launches_per_sample: float
    seconds_per_sample: float
    """Added up over the GPUs; kernels that overlap count twice, unlike in the device-busy time."""


class AllocationShare(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Tensors of one origin that are alive where memory peaks, written as `[name, count, bytes]`."""

    name: str
    """
    Operator and place; `other` for all that are not listed, `before the step` for what was there. What the optimizer
    keeps has a name of its own: `exp_avg of the optimizer`.
    """
    count: int | None
    """How many they are; None where they were not counted."""
    bytes: int


class MemoryPoint(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """
    Memory where a phase, or a round within the phase `rounds`, ended.

    Written as `[phase, seconds, allocated, peak allocated, peak reserved, used]`, bytes with an entry per
    GPU. The peaks are of the stretch since the point before.
    """

    phase: str
    seconds: float
    """Since the process began to look for its devices."""
    allocated_bytes: tuple[int, ...]
    peak_allocated_bytes: tuple[int, ...]
    peak_reserved_bytes: tuple[int, ...]
    used_bytes: tuple[int, ...] | None = None
    """What NVML counts at that moment, all processes together; None where it does not say."""


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fresh process that measured the case once: the unit of statistics."""

    outcome: Outcome
    reason: str | None = None
    """A sentence for every outcome but `ok`."""
    metrics: dict[str, Value] = {}
    """By name in `metrics.METRICS`; a metric that could not be measured is absent."""
    missing: dict[str, str] = {}
    """Metric or evidence name to the reason why it is absent."""
    rounds: tuple[Round, ...] = ()
    ran: dict[str, str] = {}
    """What really ran: `attention`, `checkpointing`, `linear`, `optimizer`, `trained_dtype`, `frozen_dtype`."""
    evidence: Evidence = Evidence()
    kernels: tuple[KernelShare, ...] = ()
    """Families that took most of the GPU's time, longest first."""
    memory: tuple[MemoryPoint, ...] = ()
    """From the build to the last round, or to where memory ran out; empty on the CPU."""
    peak_allocations: tuple[AllocationShare, ...] = ()
    """
    What the longest micro-batch and its optimizer step hold at their peak, on the fullest GPU: most bytes
    first. Measured after the rounds, in a pass of its own.
    """
    profile: Profile | msgspec.UnsetType = msgspec.UNSET
    """What one step does, by name and place; one process of a row has it. Files have no line for one that has not."""
    estimate: Estimate | msgspec.UnsetType = msgspec.UNSET
    """What was estimated, in a process that measured nothing."""
    phase_seconds: dict[str, float] = {}
    """Where the process's time went, by phase, in the order of the phases."""
    neighbours: int | None = None
    """
    The most other cases that were measured on the same machine at the same time, as far as the user's own
    runs go; 0 if it was alone, None if that is not known. They share its CPUs, which wall time shows.
    """


class Measurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processes that measured one case in one environment."""

    case: Case
    workload: Workload
    environment: Environment | None
    """None when no process got far enough to say."""
    processes: Annotated[tuple[Process, ...], msgspec.Meta(min_length=1)]
    measured_at: str
    """UTC, ISO 8601, to the second."""

    @property
    def outcome(self) -> Outcome:
        """That of the last process: earlier ones that failed were measured again."""
        return self.processes[-1].outcome

    @property
    def reason(self) -> str | None:
        return self.processes[-1].reason

    @property
    def kernels(self) -> tuple[KernelShare, ...]:
        """Those of the last process that noted any; empty if none did."""
        return next((process.kernels for process in reversed(self.processes) if process.kernels), ())

    @property
    def memory(self) -> tuple[MemoryPoint, ...]:
        """That of the last process that noted its memory; empty if none did."""
        return next((process.memory for process in reversed(self.processes) if process.memory), ())

    @property
    def peak_allocations(self) -> tuple[AllocationShare, ...]:
        """Those of the last process that noted any; empty if none did."""
        return next((process.peak_allocations for process in reversed(self.processes) if process.peak_allocations), ())

    @property
    def profile(self) -> Profile | None:
        """That of the last process that has one; None if none does."""
        return next((process.profile for process in reversed(self.processes) if process.profile), None)

    @property
    def workload_hash(self) -> str:
        return workload_hash(self.case, self.workload)


def fullest(listings: Iterable[tuple[AllocationShare, ...]]) -> tuple[AllocationShare, ...]:
    """Of what several GPUs hold, that of the one that holds most."""
    return max(listings, key=lambda listing: sum(share.bytes for share in listing))


def now() -> str:
    """Time of a measurement that ends now."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def failed(
    case: Case,
    workload: Workload,
    outcome: Outcome,
    reason: str,
    *,
    measured_at: str | None = None,
    environment: Environment | None = None,
) -> Measurement:
    """Measurement of which only the outcome is known; made now, unless *measured_at* says when."""
    process = Process(outcome=outcome, reason=reason)
    return Measurement(
        case=case, workload=workload, environment=environment, processes=(process,), measured_at=measured_at or now()
    )


def joined(first: Measurement, second: Measurement) -> Measurement:
    """The processes of two measurements of one case in one session, dated as the second, and `thinned`."""
    return msgspec.structs.replace(second, processes=thinned((*first.processes, *second.processes)))


def thinned(processes: Sequence[Process]) -> tuple[Process, ...]:
    """
    Processes of one row, as they are judged and kept.

    Kernels, the course of memory, what its peak is made up of and the profile are kept of the last process that
    has them only: they differ by little, and take most of the room.
    """
    empty: dict[str, Any] = {"kernels": (), "memory": (), "peak_allocations": (), "profile": msgspec.UNSET}
    last = {name: max((i for i, one in enumerate(processes) if getattr(one, name)), default=-1) for name in empty}
    return tuple(
        msgspec.structs.replace(process, **{name: empty[name] for name in empty if number != last[name]})
        for number, process in enumerate(processes)
    )
