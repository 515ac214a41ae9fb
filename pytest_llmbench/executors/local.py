"""Runs cases on this machine: in processes forked from a warm server, or a cold one where that fails."""

from __future__ import annotations

import os
import platform
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pytest_llmbench.executors import SetupError
from pytest_llmbench.executors.channel import Channel, RubbishError
from pytest_llmbench.executors.log import Log
from pytest_llmbench.executors.server import TICK_SECONDS, Server, ServerError
from pytest_llmbench.schema.measurement import Measurement, Outcome, failed
from pytest_llmbench.schema.protocol import PRELOADING, Ended, Phase, Request, ended
from pytest_llmbench.schema.units import seconds

__all__ = ["MEASURE", "PRELOAD", "LocalExecutor"]

MEASURE = "pytest_llmbench.worker.entry:measure"
PRELOAD = ("torch", "transformers.models.qwen2.modeling_qwen2", "accelerate", "peft")
"""Imported once for all cases. peft comes last: with some libraries beside it, it initialises CUDA."""

LINGER_SECONDS = 10.0
"""How long a process may take to end once it has answered."""
IMPORT_SECONDS = 300.0
"""How long a process may import, as `server.START_SECONDS`; where the server is warm, that is next to nothing."""
MAX_DEATHS = 2
"""Number of servers that may die in a row while they start before cases do without a warm one."""


class _DeadlineError(Exception):
    """The case's time is over."""


class LocalExecutor:
    """
    Measures cases one at a time, each in a fresh process of this machine.

    The process is forked from a server that has imported *preload*. A server that would hand
    its children a spoilt CUDA, or that does not start, is replaced by one with less to import, at
    last by one that imports nothing: each process then imports its libraries itself. One that a case
    kills is started again.

    Args:
        timeout_seconds: deadline of a case, from when its process has imported what measures to its end.
        announce: called with a sentence when something is not as it was asked for.
        python: interpreter of the environment to measure; it needs this package too.
        measure: `module:function` that measures, imported in the process.
        preload: modules that the server imports, in order.
        environ: environment variables of the server and all below it; None for this process's own.

    Raises:
        SetupError: this is not Linux.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        announce: Callable[[str], None],
        python: Path = Path(sys.executable),
        measure: str = MEASURE,
        preload: Sequence[str] = PRELOAD,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if platform.system() != "Linux":
            raise SetupError(
                f"cases cannot be measured on {platform.system()}: ending everything that a case started needs Linux"
            )
        self._timeout_seconds = timeout_seconds
        self._announce = announce
        self._python = python
        self._measure = measure
        self._preload = tuple(preload)
        self._environ = environ
        self._server: Server | None = None
        self._starting: Server | None = None
        self._stopped = False
        self._deaths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        """
        Measure *request* once; see `Executor.run`.

        An exception of *on_phase*, and Ctrl-C, end the case's processes and pass on.
        """
        why = f"{MAX_DEATHS + 1} servers died before they started one"
        try:
            for _ in range(MAX_DEATHS + 1):
                server = self._running_server(on_phase)
                with Log() as log, Channel(request.case, on_phase) as channel:
                    measurement = self._converse(server, request, channel, log)
                if measurement is not None:
                    return measurement
        except ServerError as error:
            why = str(error)
        return _failed(request, "crashed", f"there is no process to measure in: {why}")

    def stop(self) -> None:
        """
        Kill the case that another thread is running and measure no more: from now on every case ends as crashed.
        """
        self._stopped = True
        for server in (self._server, self._starting):
            if server is not None:
                server.interrupt()

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _running_server(self, on_phase: Callable[[Phase], None]) -> Server:
        """
        Raises:
            ServerError: not even a cold server starts.
        """
        if self._server is not None:
            try:
                self._server.check()
            except ServerError as error:
                self._lose_server(f"between two cases {error}")

        def tell_preloading() -> None:
            if self._preload:
                on_phase(Phase(name=PRELOADING))

        if self._server is None:
            tell_preloading()
        environ = {
            **(os.environ if self._environ is None else self._environ),
            # Asking CUDA how many GPUs there are, as peft does when imported, would spoil it for forked processes.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        }
        while self._server is None:
            if self._stopped:
                raise ServerError("the run is over")
            try:
                server = Server.start(
                    self._python, self._measure, self._preload, environ, self._note_starting, on_wait=tell_preloading
                )
            except ServerError as error:
                if not self._preload:
                    raise
                self._count_death(str(error))
                continue
            self._deaths = 0
            if server.poisoned is None:
                self._server = server
            else:
                server.stop()
                self._preload_less(server.poisoned)
        return self._server

    def _converse(self, server: Server, request: Request, channel: Channel, log: Log) -> Measurement | None:
        """The case from request to measurement; None if the server died before it started a process."""
        try:
            server.submit(request, channel, log)
            end = _listen(server, channel, log, self._timeout_seconds)
        except _DeadlineError:
            since = time.monotonic() - channel.phase_at
            self._take_back(server, channel, log)
            if channel.imported_at is None:
                return _failed(
                    request,
                    "timeout",
                    _with_log(f"its process did not import what measures within {seconds(IMPORT_SECONDS)}", log),
                    channel,
                )
            reason = _overdue(self._timeout_seconds, channel.phase, since, log)
            return channel.answer or _failed(request, "timeout", reason, channel)
        except RubbishError as error:
            self._take_back(server, channel, log)
            return _failed(request, "crashed", f"its process wrote rubbish to the channel: {error}", channel)
        except ServerError as error:
            with suppress(RubbishError):
                _read_rest(channel)
            started = server.child is not None
            self._lose_server(str(error))
            return channel.answer or (
                _failed(request, "crashed", f"ended with its server: {error}", channel) if started else None
            )
        except BaseException:
            self._take_back(server, channel, log)
            raise
        return channel.answer or _failed(request, "crashed", _without_answer(end.exit_status, log), channel)

    def _take_back(self, server: Server, channel: Channel, log: Log) -> None:
        """End the case: its server kills all of it when nobody listens any more."""
        channel.close()
        try:
            is_over = server.end_case(log)
        except ServerError:
            is_over = False
        except BaseException:
            self._server = None
            server.kill()
            raise
        if not is_over:
            self._lose_server("the server could not end a case")

    def _lose_server(self, why: str) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            server.kill()
        if not self._stopped:
            self._announce(why)

    def _note_starting(self, server: Server) -> None:
        self._starting = server
        if self._stopped:
            server.interrupt()

    def _count_death(self, why: str) -> None:
        if self._stopped:
            return
        self._deaths += 1
        if self._deaths >= MAX_DEATHS and self._preload:
            self._preload = ()
            why += "; from now on every case imports its libraries itself, which takes 10 to 20 s each"
        self._announce(why)

    def _preload_less(self, poisoned: str) -> None:
        """Leave the module that spoilt the server out of the next one."""
        rest = tuple(name for name in self._preload if f" {name} " not in poisoned)
        self._preload = rest if len(rest) < len(self._preload) else ()
        kept = f"the server keeps {', '.join(self._preload)}" if self._preload else "no library is kept warm"
        self._announce(f"{poisoned}, which forked processes cannot undo: {kept}, cases import the rest themselves")


def _listen(server: Server, channel: Channel, log: Log, timeout_seconds: float) -> Ended:
    """
    Hear the process out.

    Args:
        server: to which the request was submitted.
        channel: of the request.
        log: of the process.
        timeout_seconds: deadline of the process, from when it has imported what measures.
    """
    started = time.monotonic()
    poller = select.poll()
    for source in (channel, log, server.log, server):
        poller.register(source, select.POLLIN)
    while True:
        begun = channel.imported_at
        limit = started + IMPORT_SECONDS if begun is None else begun + timeout_seconds
        if channel.answer is not None:
            limit = min(limit, channel.answered_at + LINGER_SECONDS)
        if (remaining := limit - time.monotonic()) <= 0:
            raise _DeadlineError
        ready = {fd for fd, _ in poller.poll(min(remaining, TICK_SECONDS) * 1000)}
        if not ready:
            channel.tell_again()
        for pipe in (channel, log, server.log):
            if pipe.fileno() in ready and not pipe.read():
                poller.unregister(pipe)  # its last writer has gone
        if server.fileno() in ready and isinstance(message := server.hear(), Ended):
            _read_rest(channel)
            return message


def _read_rest(channel: Channel) -> None:
    """Read what is still in the pipe after its last writer has gone."""
    while channel.read():
        pass


def _failed(request: Request, outcome: Outcome, reason: str, channel: Channel | None = None) -> Measurement:
    environment = channel.environment if channel is not None else None
    return failed(request.case, request.workload, outcome, reason, environment=environment)


def _without_answer(exit_status: int, log: Log) -> str:
    """Why a case has crashed whose process went without a measurement."""
    how = ended(exit_status)
    return _with_log(f"{how} without an answer" if exit_status >= 0 else how, log)


def _overdue(limit_seconds: float, phase: str | None, phase_seconds: float, log: Log) -> str:
    """Why a case has timed out; *phase_seconds* is the time spent in *phase* until then."""
    where = f"{seconds(phase_seconds)} of them in phase {phase!r}" if phase else "before its first phase"
    return _with_log(f"no answer within {seconds(limit_seconds)}, {where}", log)


def _with_log(reason: str, log: Log) -> str:
    stack, lines = log.stack(), log.last_lines()
    if stack:
        reason += f"; it was at {stack}"
    if lines:
        reason += f"; its last output:\n{lines}"
    if flood := log.flood():
        reason += f"\nof {flood}"
    return reason
