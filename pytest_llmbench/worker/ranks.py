"""
A case that several processes train together: starts its ranks, hears them out, names the one that fails.

The measuring process is no rank itself, so that it is never stuck where ranks wait for each other.
Ranks are forked from it, which has its libraries and no CUDA yet; they belong to its process group and
die with it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import msgspec

from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Answer, Message, Phase, Request, Surroundings, decode_message, encode, ended
from pytest_llmbench.schema.text import innermost_calls
from pytest_llmbench.worker import child, descendants, rank
from pytest_llmbench.worker.merge import Failure, merge, surroundings

__all__ = ["measure_ranks"]

LOOK_SECONDS = 0.2
"""How often it is looked whether a rank has died whose pipe another process keeps open."""
GRACE_SECONDS = 2.0
"""How long the others may take to say what became of them, once a rank has failed."""
END_SECONDS = 5.0
"""How long a rank may take to end once it has answered."""
STACK_SECONDS = 0.08
"""How long ranks may take to write down where they stand; the server waits a little longer for this process."""
READ_BYTES = 2**16

Report = Callable[[Phase | Surroundings], None]


def measure_ranks(request: Request, report: Report) -> Measurement:
    """
    Measure *request* on `case.num_ranks` ranks, and say what they gave together; see `worker.measure.measure`.

    If a rank fails, the others are ended, and its number is in the reason. Phases are those of the first rank.
    """
    with _started(request) as ranks, _telling_where(ranks):
        failures = _hear_out(ranks, report)
        for one in ranks:
            one.await_end(END_SECONDS if one.answer is not None else 0)
        return merge(request, [one.answer for one in ranks], failures)


class _Rank:
    """One of the processes, and what it has said."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.stack = os.memfd_create(f"rank {number}")
        self.answer: Measurement | None = None
        self.exit_status: int | None = None
        """As `subprocess` gives it; None while it runs."""
        self.phase, self.phase_at = "start", time.monotonic()
        self._line = b""

    @property
    def is_over(self) -> bool:
        return self.answer is not None or self.exit_status is not None

    def hear(self) -> Iterator[Message]:
        """What it has said since the last time; notes how it ended, if it has."""
        self._look()
        while data := self._read():
            *lines, self._line = (self._line + data).split(b"\n")
            for message in map(decode_message, lines):
                if isinstance(message, Phase) and message.name != self.phase:
                    self.phase, self.phase_at = message.name, time.monotonic()
                if isinstance(message, Answer):
                    self.answer = message.measurement
                yield message

    def failure(self) -> Process | None:
        """How it ended if it is over and not well."""
        if self.answer is not None:
            (process,) = self.answer.processes
            return None if process.outcome == "ok" else process
        if self.exit_status is None:
            return None
        unsaid = " without an answer" if self.exit_status >= 0 else ""
        return Process(outcome="crashed", reason=f"{ended(self.exit_status)}{unsaid}")

    def await_end(self, seconds: float) -> None:
        """Let it end by itself for so long, then end it."""
        deadline = time.monotonic() + seconds
        while self._look() is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)

    def _look(self) -> int | None:
        """Its exit status, if it has one by now."""
        if self.exit_status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.exit_status = os.waitstatus_to_exitcode(status) if pid else None
        return self.exit_status

    def where(self) -> str:
        """Its phase, and the innermost calls of the last stack that it was made to write."""
        told = f"{time.monotonic() - self.phase_at:.0f} s in phase {self.phase!r}"
        calls = innermost_calls(os.pread(self.stack, READ_BYTES, 0).decode(errors="replace"))
        return f"{told}, at {' <- '.join(calls)}" if calls else told

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.stack)

    def _read(self) -> bytes:
        try:
            return os.read(self.reader, READ_BYTES)
        except BlockingIOError:
            return b""


@contextmanager
def _started(request: Request) -> Iterator[list[_Rank]]:
    """The running ranks; on leaving, all of them are gone."""
    ranks = [_Rank(number) for number in range(request.case.num_ranks)]
    sys.stdout.flush()
    sys.stderr.flush()
    with ExitStack() as closing, socket.create_server(("127.0.0.1", 0)) as listener:
        for one in ranks:
            closing.callback(one.close)
        for one, devices in zip(ranks, _devices(request), strict=True):
            own = msgspec.structs.replace(request, visible_devices=devices, trace=_trace(request, one.number))
            _fork(one, ranks, own, listener)
            os.close(one.writer)
            closing.callback(one.await_end, 0)
        yield ranks


def _fork(one: _Rank, ranks: Sequence[_Rank], request: Request, listener: socket.socket) -> None:
    parent = os.getpid()

    def life() -> None:
        descendants.die_with(parent)
        for other in ranks[one.number + 1 :]:  # its pipe would stay open with a copy here
            os.close(other.writer)
        port = listener.getsockname()[1]
        seat = rank.Seat(rank=one.number, num_ranks=len(ranks), port=port, listener=listener.fileno(), stack=one.stack)
        child.main(encode(request), one.writer, lambda: partial(rank.measure, seat))

    one.pid = os.fork()
    if not one.pid:
        child.live(life)


def _devices(request: Request) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each rank, one GPU each."""
    count = request.case.num_ranks
    if request.workload.device != "cuda":
        return [request.visible_devices] * count
    visible = request.visible_devices or os.environ.get("CUDA_VISIBLE_DEVICES")
    given = visible.split(",") if visible else [str(number) for number in range(count)]
    return [*given[:count], *[""] * (count - len(given))]  # a rank for which there is none says so


def _trace(request: Request, number: int) -> str | None:
    """Every rank records one, since all have to run the same steps, and each has a file of its own."""
    if request.trace is None or number == 0:
        return request.trace
    path = Path(request.trace)
    return str(path.with_name(f"{path.stem}-rank-{number}{path.suffix}"))


def _hear_out(ranks: Sequence[_Rank], report: Report) -> list[Failure]:
    """Until all have answered, or one has failed and the others had time to say so too; failures as they came."""
    failures: dict[int, Failure] = {}
    limit = float("inf")
    while not all(one.is_over for one in ranks) and time.monotonic() < limit:
        # The pipe of a rank that is over is always ready: its end, or nothing more to say.
        select.select([one.reader for one in ranks if not one.is_over], [], [], LOOK_SECONDS)
        for one in ranks:
            for message in one.hear():
                if one.number == 0 and isinstance(message, Phase | Surroundings):
                    report(_of_all(message, len(ranks)))
        # Whoever died without a word is more likely the cause than those who lost contact to it.
        for one in sorted(ranks, key=lambda one: (one.answer is not None, one.number)):
            if one.number not in failures and (process := one.failure()) is not None:
                failures[one.number] = Failure(one.number, process)
                limit = min(limit, time.monotonic() + GRACE_SECONDS)
    return list(failures.values())


def _of_all(message: Phase | Surroundings, num_ranks: int) -> Phase | Surroundings:
    """What the first rank says of itself, as said of all of them."""
    if isinstance(message, Surroundings):
        return Surroundings(surroundings(message.environment, num_ranks))
    speed = message.samples_per_second
    return Phase(message.name, None if speed is None else speed * num_ranks)


@contextmanager
def _telling_where(ranks: Sequence[_Rank]) -> Iterator[None]:
    """Asked where it stands, this process prints where each rank does: its own stack says nothing."""

    def tell(signal_number: int, frame: FrameType | None) -> None:
        running = [one for one in ranks if one.exit_status is None]
        for one in running:
            os.kill(one.pid, child.STACK_SIGNAL)
        time.sleep(STACK_SECONDS)
        for one in running:
            sys.stdout.write(f"rank {one.number} of {len(ranks)}: {one.where()}\n")
        sys.stdout.flush()

    # In place of faulthandler, which would write at once where this process waits.
    before = signal.signal(child.STACK_SIGNAL, tell)
    try:
        yield
    finally:
        signal.signal(child.STACK_SIGNAL, before or signal.SIG_DFL)
