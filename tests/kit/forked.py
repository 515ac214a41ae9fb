"""Runs of pytest, and servers, as forks of the test's own process, which has imported torch already."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch  # noqa: TID253 - as all whose test imports this have

import forks
from pytest_llmbench.executors import server
from pytest_llmbench.executors.local import MEASURE, PRELOAD
from pytest_llmbench.host.distribution import origins
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import PACKAGES
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import add_extensions
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload

__all__ = ["fork_servers", "pytest_llmbench_executor", "run_forked"]

with warnings.catch_warnings(action="ignore"):  # of libraries
    # Here and not where it is forked: pytester takes back what a test imports, and operators register once.
    for _module in (*PRELOAD, MEASURE.partition(":")[0]):
        importlib.import_module(_module)


class Here:
    """Measures in the process of pytest."""

    def __str__(self) -> str:
        return "CPU, in this process"

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        from pytest_llmbench.worker.entry import measure

        return measure(request, lambda told: on_phase(told) if isinstance(told, Phase) else None)

    def close(self) -> None:
        """Nothing was opened."""


def pytest_llmbench_executor() -> Here:
    return Here()


def run_forked(
    pytester: pytest.Pytester, *options: str, plugins: Sequence[str] = ("pytest_llmbench.plugin", "forked")
) -> pytest.RunResult:
    """A run in the folder of *pytester*; whatever it imports or registers ends with it."""
    _warm_up()
    answer = Path(pytester.path, "answer.pickle")
    pid = os.fork()
    if pid == 0:
        try:
            sys.path.insert(0, str(pytester.path))
            add_extensions.cache_clear()  # the packages of the parent were not on this path
            done = pytester.runpytest_inprocess(*(word for name in plugins for word in ("-p", name)), *options)
            answer.write_bytes(pickle.dumps((done.ret, done.outlines, done.errlines, done.duration)))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pytest.RunResult(*pickle.loads(answer.read_bytes()))


def fork_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Start the servers of executors as forks of this process, which does not have to import torch anew.

    All that is forked off a server is as it is elsewhere. An environment other than this one gives a server the
    packages of its own; what this process has imported stays. Where there is a GPU, servers start as ever: this
    process may have initialised CUDA, which no fork can undo.
    """
    if torch.cuda.is_available():
        return
    _warm_up()
    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
    monkeypatch.setattr(server, "subprocess", SimpleNamespace(Popen=_start_server, **names))


@cache
def _warm_up() -> None:
    """Let this process find out, once for all forks, what each would: which code libraries are, how a model is built."""
    from pytest_llmbench.engine.training import build_fine_tuning

    origins(PACKAGES)
    build_fine_tuning(Case(model="qwen-7b-chat"), Workload(scale="smoke", device="cpu", samples=1), torch.device("cpu"))


def _start_server(
    command: Sequence[str], *, stdout: int, env: Mapping[str, str], pass_fds: Sequence[int], **_: object
) -> forks.Fork:
    return forks.Fork(partial(_serve, command, env), (stdout, stdout), pass_fds)


def _serve(command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Be the server that *command* starts."""
    os.environ.clear()
    os.environ.update(environ)
    site = Path(command[0]).parents[1] / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    sys.path[:0] = [*filter(None, environ.get("PYTHONPATH", "").split(os.pathsep)), str(site)]
    sys.argv = list(command[2:])
    add_extensions.cache_clear()
    from pytest_llmbench.worker.__main__ import main

    main()
