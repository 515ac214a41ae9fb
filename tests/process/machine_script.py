"""Run as a program by `test_machine`: a run that measures one row after the other on any free GPU, and prints on which."""

from __future__ import annotations

import sys

from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload


def main(rows: list[str]) -> None:
    machine = Machine("cuda", timeout_seconds=60, announce=say, measure="pool_steps:measure", preload=())
    for row in rows:
        name, seconds, num_gpus = row.split(":")
        case = Case.custom("m:f", name=f"{name} {seconds}", num_gpus=int(num_gpus))
        measurement = machine.run(Request(case=case, workload=Workload()), lambda _: None)
        say(f"{name}: {measurement.processes[0].ran['devices']}")
    machine.close()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
