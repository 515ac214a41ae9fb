"""
How much cases that run at the same time disturb each other: one row alone, then beside 1 to k others like it.

    python -m benchmarks.neighbours --device cuda --others 7
    python -m benchmarks.neighbours --device cpu --others 1

The row is measured in every company in turn, so that slow drifts of the machine fall on all alike. On
GPUs every case has one of its own; what they share is the CPUs, the host's memory and, if power is
short, that. The default row spends most of its time in Python and kernel launches and so suffers most.
Prints medians over the processes, in relation to those alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.setting import case_of, in_time, parser, save, workload_of
from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.schema.protocol import Request

WATCHED = ("samples_per_second", "device_busy_seconds_per_sample", "python_calls_per_sample", "peak_reserved_bytes")


def main() -> None:
    # Others are the most cases beside the one that counts; so many processes measure it in each company.
    arguments = parser(
        __doc__, model="qwen-1_8b-chat", max_length=512, samples=64, others=1, processes=5, seconds=3600
    ).parse_args()
    request = Request(case=case_of(arguments), workload=workload_of(arguments))
    companies = sorted(
        {0, *(2**power - 1 for power in range(1, 8) if 2**power - 1 < arguments.others), arguments.others}
    )
    machine = Machine(arguments.device, timeout_seconds=600, announce=print)
    taken: dict[int, list[Process]] = {others: [] for others in companies}
    try:
        measured_at_once(machine, request, companies[-1])  # servers start, caches fill
        for turn in in_time(range(arguments.processes), arguments.seconds):
            for others in companies:
                taken[others].append(measured_at_once(machine, request, others))
                print(
                    f"turn {turn}, beside {others}: {values(taken[others], WATCHED[0])[-1]:.4g} samples/s", flush=True
                )
    finally:
        machine.close()
    report(taken)
    save("neighbours", {others: [process.metrics for process in processes] for others, processes in taken.items()})


def measured_at_once(machine: Machine, request: Request, others: int) -> Process:
    """One process of so many and one that start together."""
    with ThreadPoolExecutor(others + 1) as threads:
        runs = [threads.submit(machine.run, request, lambda _: None) for _ in range(others + 1)]
        processes = [run.result().processes[-1] for run in runs]
    for process in processes:
        if process.outcome != "ok":
            raise SystemExit(f"{process.outcome}: {process.reason}")
    return processes[0]


def report(taken: dict[int, list[Process]]) -> None:
    alone = taken[0]
    for name in WATCHED:
        base = values(alone, name)
        if not base:
            print(f"{name}: {alone[0].missing.get(name, 'not measured')}")
            continue
        print(f"{name}: alone {statistics.median(base):.6g}, spread of its processes {spread(base):.2%}")
        for others, processes in taken.items():
            if others:
                there = values(processes, name)
                change = statistics.median(there) / statistics.median(base) - 1
                print(f"  beside {others}: {change:+.2%}, spread {spread(there):.2%}")


def values(processes: Sequence[Process], name: str) -> list[float]:
    found = [process.metrics[name] for process in processes if name in process.metrics]
    return [float(value[0] if isinstance(value, tuple) else value) for value in found]


def spread(found: Sequence[float]) -> float:
    """From the least to the most, over the median."""
    return (max(found) - min(found)) / statistics.median(found)


if __name__ == "__main__":
    main()
