"""
How near to the best possible a schedule comes: 96 rows of known length on 8 GPUs that are not there.

Every row is a real process that sleeps. The best possible is the sum of the lengths over the GPUs,
or the longest row if that is more.

    python -m benchmarks.schedule
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable

from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.executors.pool import Announcements, Pool
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload

GPUS, ROWS = 8, 96


def measure(request: Request, report: Callable[[Phase], None]) -> Measurement:
    """Sleep for as long as the case's name says, in a process of its own."""
    time.sleep(length(request))
    process = Process(outcome="ok", ran={"pid": str(os.getpid())})
    return Measurement(
        case=request.case, workload=request.workload, environment=None, processes=(process,), measured_at=""
    )


def length(request: Request) -> float:
    return float(request.case.model.split()[1])


def row(name: str, seconds: float) -> Request:
    case = Case.custom("m:f", name=f"{name} {seconds}")
    return Request(case=case, workload=Workload(scale="smoke", device="cpu", samples=4))


def run_all(pool: Pool, rows: list[Request]) -> float:
    started = time.monotonic()
    pool.schedule(rows)
    for one in rows:
        assert pool.run(one, lambda _: None).outcome == "ok"
    return time.monotonic() - started


def main() -> None:
    generator = random.Random(0)
    rows = [row(f"row-{number}", round(generator.lognormvariate(0.2, 0.7), 2)) for number in range(ROWS)]
    announcements = Announcements(lambda sentence: print(sentence, file=sys.stderr))
    machine = Machine(
        "cpu", timeout_seconds=60, announce=announcements, measure="benchmarks.schedule:measure", preload=()
    )
    pool = Pool(machine, slots=GPUS, width=machine.width, seconds=length, announcements=announcements)
    try:
        run_all(pool, [row(f"warm-{number}", 0.1) for number in range(GPUS)])  # its servers start once
        spent = run_all(pool, rows)
    finally:
        pool.close()
    lengths = [length(one) for one in rows]
    best = max(sum(lengths) / GPUS, *lengths)
    print(f"{ROWS} rows, {sum(lengths):.1f} s in all, on {GPUS} GPUs: {spent:.2f} s, best possible {best:.2f} s")
    print(f"ratio {spent / best:.3f}")


if __name__ == "__main__":
    main()
