"""Which executor a run has: this machine, several GPUs of it at once, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from pytest_llmbench.executors import Executor
from pytest_llmbench.executors.durations import Durations
from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.executors.pool import Announcements, Pool
from pytest_llmbench.executors.ray_cluster import Cluster, on_cluster
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Device

__all__ = ["choose_executor", "in_parallel", "machine_of"]

Jobs = int | Literal["auto"]


def choose_executor(
    device: Device,
    *,
    timeout_seconds: float,
    jobs: Jobs,
    cluster: Cluster | None,
    known: Iterable[Measurement],
    announce: Callable[[str], None],
) -> Executor:
    """
    The executor of a run; nothing is started or connected to yet.

    Args:
        device: what to measure on.
        timeout_seconds: deadline of a case.
        jobs: see `in_parallel`; a cluster does not need it.
        cluster: where to measure instead of here.
        known: earlier measurements, the latest last, which tell how long cases take; read only where several
            run at once.
        announce: called in the thread that called this.

    Raises:
        ValueError: see `in_parallel`.
    """
    if cluster is not None:
        seconds = Durations(known)
        return on_cluster(cluster, device, timeout_seconds=timeout_seconds, seconds=seconds, announce=announce)
    announcements = Announcements(announce)
    machine = Machine(device, timeout_seconds=timeout_seconds, announce=announcements)
    if jobs == 1:
        return machine
    return in_parallel(machine, jobs, seconds=Durations(known), announcements=announcements)


def in_parallel(
    machine: Machine, jobs: Jobs, *, seconds: Callable[[Request], float], announcements: Announcements
) -> Machine | Pool:
    """
    The machine as an executor that runs so many cases at once; itself where that is one.

    Args:
        jobs: `auto` is one for each GPU, one on the CPU, and one for each of its cores where nothing is timed.
        seconds, announcements: see `Pool`.

    Raises:
        ValueError: more jobs than there are GPUs, each of which runs one case.
    """
    available = machine.num_gpus or None
    if jobs == "auto":
        jobs = available or machine.most_at_once
    elif available is not None and jobs > available:
        raise ValueError(f"{jobs} cases at once need a GPU each, and {available} are visible")
    if jobs == 1 or machine.no_gpu:
        return machine
    return Pool(machine, slots=jobs, width=machine.width, seconds=seconds, announcements=announcements)


def machine_of(executor: Executor) -> Machine | None:
    """The machine that an executor measures on, if it is this one."""
    inner = executor.executor if isinstance(executor, Pool) else executor
    return inner if isinstance(inner, Machine) else None
