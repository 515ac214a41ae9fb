"""
A process that waits for a case which hangs, to be killed or interrupted meanwhile.

Prints the phases. With the argument `fork` it first makes a copy of itself that does nothing but
live on, and prints its process id; with `preload` it is the server's start that hangs; with
`alone` the case has no descendants.
"""

from __future__ import annotations

import os
import sys
import time

from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload


def request(step: str) -> Request:
    return Request(case=Case.custom(f"steps:{step}", name=step), workload=Workload(device="cpu"))


def fork_idler() -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    preload = ["endless"] if "preload" in sys.argv else []
    executor = LocalExecutor(timeout_seconds=60, announce=say, measure="steps:measure", preload=preload)
    if "fork" in sys.argv:
        executor.run(request("clean"), lambda _: None)
        say(str(fork_idler()))
    step = "hang" if "alone" in sys.argv else "hang_with_descendants"
    executor.run(request(step), lambda phase: say(phase.name))


if __name__ == "__main__":
    main()
