"""
A plugin whose executor has real processes that need no torch: what a process does is in its row's name.

A name is a function of this module, with a suffix after a dash to tell rows apart: `ok-1`, `hang`.
With LLMBENCH_TEST_MENDED in the environment every row is as good as `ok`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from pluggy import HookimplMarker

import surroundings
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Phase, Request, Surroundings

if TYPE_CHECKING:
    from pytest_llmbench.executors.local import LocalExecutor

Report = Callable[[Phase | Surroundings], None]

HERE = surroundings.environment(device="cpu", python="3")
GOOD = Process(outcome="ok", metrics={"operators_per_sample": 12.0})


def pytest_llmbench_executor() -> LocalExecutor:
    from pytest_llmbench.executors.local import LocalExecutor  # which the servers of its processes do without

    timeout = float(os.environ.get("LLMBENCH_TEST_TIMEOUT", "60"))
    return LocalExecutor(timeout_seconds=timeout, announce=announce, measure="faulty:measure", preload=("faulty",))


def announce(sentence: str) -> None:
    """Where pytest captures nothing."""
    with Path("announced.txt").open("a") as stream:
        stream.write(f"{sentence}\n")


def measure(request: Request, report: Report) -> Measurement:
    """The function that the measuring process calls."""
    report(Surroundings(HERE))
    step = request.case.model.partition("-")[0]
    mended = "LLMBENCH_TEST_MENDED" in os.environ
    reached = Path(os.environ.get("LLMBENCH_TEST_FOLDER", "."), f"{request.case.model}.reached")
    reached.write_text(str(os.getpid()))
    process: Process = GOOD if mended else globals()[step](report)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    process = msgspec.structs.replace(process, ran={**process.ran, "devices": devices})
    return Measurement(
        case=request.case,
        workload=request.workload,
        environment=HERE,
        processes=(process,),
        measured_at="2026-11-24T10:00:00+00:00",
    )


def ok(report: Report) -> Process:
    return GOOD


def hang(report: Report) -> Process:
    time.sleep(600)
    raise AssertionError


def hang_in_build(report: Report) -> Process:
    report(Phase("devices"))
    report(Phase("build"))
    return hang(report)


def hang_in_native_code(report: Report) -> Process:
    """Without the interpreter lock, and again when a signal has ended the call."""
    libc = ctypes.CDLL(None)
    while True:
        libc.sleep(600)


def terminated(report: Report) -> Process:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a shell may have had it ignored
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError


def abort(report: Report) -> Process:
    ctypes.CDLL(None).abort()
    raise AssertionError


def out_of_host_memory(report: Report) -> Process:
    """With the address space limited, an allocation fails instead of waking the out-of-memory killer."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**27
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    held = []
    while True:
        held.append(bytearray(2**24))


def killed_for_memory(report: Report) -> Process:
    """Touches memory in a control group that has little of it, until the kernel ends this process."""
    Path(os.environ["LLMBENCH_TEST_CGROUP"], "cgroup.procs").write_text(str(os.getpid()))
    held = []
    while True:
        held.append(b"x" * 2**22)


def prints_for_ever(report: Report) -> Process:
    line = "an epoch of \x1b[31mnothing\x1b[0m at all\n"
    sys.stdout.write("the first line\n")
    while True:
        sys.stdout.write(line * 1000)


def prints_much_and_is_well(report: Report) -> Process:
    for _ in range(400):
        os.write(1, b"x" * 2**16)
        os.write(2, b"y" * 2**16)
    return GOOD


def raises_in_colour(report: Report) -> Process:
    raise ValueError("\x1b]0;a new title\x07\x1b[2J")


def raises_what_is_obeyed(report: Report) -> Process:
    raise ValueError("\x9b31m\u202egnp\n::error::from an exception\n##[error]too")


def prints_what_is_obeyed(report: Report) -> Process:
    sys.stdout.write("\x9b31m \u202egnp\n::error::from a line\n##[error]too\n")
    sys.stdout.flush()
    os._exit(3)


def huge_answer(report: Report) -> Process:
    """100 MB, and well-formed."""
    return Process(outcome="ok", metrics={"operators_per_sample": 12.0}, ran={"log": "x" * 100_000_000})


def broken_library(report: Report) -> Process:
    importlib.import_module("flash_attn_2_cuda")
    raise AssertionError


def leaves_processes(report: Report) -> Process:
    """A child, and a grandchild that left group and session."""
    for leaves in (False, True):
        if os.fork() == 0:
            if leaves:
                os.setsid()
                if os.fork():
                    os._exit(0)
            time.sleep(600)
            os._exit(0)
    return GOOD


def kills_server(report: Report) -> Process:
    os.kill(os.getppid(), signal.SIGKILL)
    return hang(report)


def kills_xdist(report: Report) -> Process:
    """Ends the process of pytest-xdist that waits for this one, which is the parent of the server's keeper."""
    os.kill(_parent(_parent(os.getppid())), signal.SIGKILL)
    return hang(report)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def slow(report: Report) -> Process:
    time.sleep(1)
    return GOOD


@HookimplMarker("pytest")(tryfirst=True)
def pytest_configure() -> None:
    """Nothing that this process writes may be longer than it was told."""
    if limit := os.environ.get("LLMBENCH_TEST_FILE_BYTES"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))


def unavailable(report: Report) -> Process:
    return Process(outcome="unavailable", reason="a library is missing")


def invalid(report: Report) -> Process:
    return Process(outcome="invalid", reason="another process was on the GPU")
