"""What the processes of these tests do: each function is the step of a case, run by `measure`."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import surroundings
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process, Round, failed
from pytest_llmbench.schema.protocol import Answer, Phase, Request, Surroundings, encode

Report = Callable[[Phase | Surroundings], None]

HERE = surroundings.environment(device="a device of tests", python="3")


def measure(request: Request, report: Report) -> Measurement:
    """Run the function of this module that the case names."""
    assert request.case.step is not None
    step = globals()[request.case.step.partition(":")[2]]
    process: Process = step(request, report)
    return answer(request, process)


def answer(request: Request, process: Process) -> Measurement:
    return Measurement(
        case=request.case,
        workload=request.workload,
        environment=None,
        processes=(process,),
        measured_at="2026-01-01T00:00:00+00:00",
    )


def clean(request: Request, report: Report) -> Process:
    report(Phase("build"))
    report(Phase("rounds", samples_per_second=2.5))
    return Process(
        outcome="ok",
        ran={
            "pid": str(os.getpid()),
            "session": str(os.getsid(0)),
            "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "unset"),
        },
    )


def killed(request: Request, report: Report) -> Process:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def killed_somewhere_known(request: Request, report: Report) -> Process:
    report(Surroundings(HERE))
    return killed(request, report)


def error_somewhere_known(request: Request, report: Report) -> Process:
    report(Surroundings(HERE))
    raise ValueError


def segmentation_fault(request: Request, report: Report) -> Process:
    ctypes.string_at(0)
    raise AssertionError


def exit_status_0(request: Request, report: Report) -> Process:
    os._exit(0)


def exit_status_3(request: Request, report: Report) -> Process:
    sys.stdout.write("the last words\n")
    os._exit(3)


def system_exit(request: Request, report: Report) -> Process:
    sys.exit(3)


def value_error(request: Request, report: Report) -> Process:
    raise ValueError("a rank of \udcff is none")


def missing_library(request: Request, report: Report) -> Process:
    importlib.import_module("liger_kernel")
    raise AssertionError


def missing_name(request: Request, report: Report) -> Process:
    raise ImportError("cannot import name 'LoraConfig' from 'peft'", name="peft")


def missing_other(request: Request, report: Report) -> Process:
    importlib.import_module("no_such_module_of_the_user")
    raise AssertionError


def out_of_memory(request: Request, report: Report) -> Process:
    class OutOfMemoryError(RuntimeError):
        """By its name the one of torch."""

    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def out_of_driver_memory(request: Request, report: Report) -> Process:
    raise RuntimeError("CUDA error: out of memory")


def loss_is_nan(request: Request, report: Report) -> Process:
    return Process(outcome="ok", metrics={"loss_last": float("nan"), "loss_first": 2.0})


def speed_is_infinite(request: Request, report: Report) -> Process:
    return Process(outcome="ok", metrics={"samples_per_second": float("inf")})


def count_is_huge(request: Request, report: Report) -> Process:
    return Process(outcome="ok", metrics={"loss_first": 2.0}, rounds=(Round(1.0, 2**63, 0),))


def text_is_no_unicode(request: Request, report: Report) -> Process:
    return Process(outcome="ok", metrics={"loss_first": 2.0}, ran={"dtype": "\udcff"})


def hang(request: Request, report: Report) -> Process:
    report(Phase("warm-up"))
    time.sleep(600)
    raise AssertionError


def hang_in_c(request: Request, report: Report) -> Process:
    """Holds the interpreter lock, as a stuck kernel launch does, and wants to hear no signal."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.PyDLL(None).sleep(600)
    raise AssertionError


def stopped(request: Request, report: Report) -> Process:
    os.kill(os.getpid(), signal.SIGSTOP)
    raise AssertionError


def start_daemon() -> None:
    """A process that left group and session, and whose parent is gone."""
    script = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(600)"
    subprocess.run([sys.executable, "-S", "-c", script], check=True)


def daemon_left_behind(request: Request, report: Report) -> Process:
    start_daemon()
    return Process(outcome="ok")


def hang_with_descendants(request: Request, report: Report) -> Process:
    start_daemon()
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    report(Phase("ready"))
    return hang(request, report)


def channel() -> int:
    """The pipe to the executor: the only one that a measuring process has open beside those for what it prints."""
    (pipe,) = (int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.is_fifo() and int(fd.name) > 2)
    return pipe


def rubbish(request: Request, report: Report) -> Process:
    os.write(channel(), b"Traceback (most recent call last):\n")
    return hang(request, report)


def another_kind_of_message(request: Request, report: Report) -> Process:
    os.write(channel(), b'{"type":"ended","pid":1,"exit_status":0}\n')
    return hang(request, report)


def hundred_megabytes(request: Request, report: Report) -> Process:
    fd, block = channel(), b"x" * 2**20
    for _ in range(100):
        os.write(fd, block)
    return Process(outcome="ok")


def half_a_message(request: Request, report: Report) -> Process:
    os.write(channel(), b'{"type":"answer"')
    os._exit(0)


def chatter_after_answer(request: Request, report: Report) -> Process:
    """Writes its answer by itself, then a second one and more."""
    line = encode(Answer(answer(request, Process(outcome="ok"))))
    os.write(channel(), line + b"and so on\n" + line)
    return Process(outcome="invalid", reason="the second answer")


def crash_after_answer(request: Request, report: Report) -> Process:
    os.write(channel(), encode(Answer(answer(request, Process(outcome="ok")))))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def million_lines(request: Request, report: Report) -> Process:
    line = "all work and no play makes a long log\n"
    for _ in range(1000):
        sys.stdout.write(line * 1000)
    sys.stdout.write("the end\n")
    os._exit(3)


def kill_server(request: Request, report: Report) -> Process:
    """Leaves a copy of this process behind, which has everything open that this one has."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    os.kill(os.getppid(), signal.SIGKILL)
    return hang(request, report)


def kill_server_of_a_daemon(request: Request, report: Report) -> Process:
    """Leaves a daemon that has left its session and dropped its environment, and says which by a file."""
    told = Path(os.environ["LLMBENCH_TEST_DAEMON"])
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            told.with_suffix(".new").write_text(str(os.getpid()))
            told.with_suffix(".new").rename(told)
            os.closerange(0, 1024)
            os.execve("/bin/sleep", ["sleep", "600"], {})
        os._exit(0)
    while not told.exists():
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGKILL)
    return hang(request, report)


def preloaded(request: Request, report: Report) -> Process:
    module = importlib.import_module("imported_once")
    return Process(outcome="ok", ran={"imported_in": str(module.PROCESS), "pid": str(os.getpid())})


def wrong_case(request: Request, report: Report) -> Process:
    other = failed(Case(model="qwen-7b-chat"), request.workload, "ok", "", measured_at="")
    os.write(channel(), encode(Answer(other)))
    return hang(request, report)
