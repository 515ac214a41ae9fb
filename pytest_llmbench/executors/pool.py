"""
Cases measured ahead of the tests that want them, several at once: the longest first, in as many slots as they need.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Protocol

from pytest_llmbench.executors import Executor, SetupError, Timed
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Phase, Request

__all__ = ["Announcements", "Concurrent", "Pool"]

TELL_SECONDS = 1.0
"""So long may a sentence of another thread wait to be announced."""
END_SECONDS = 15.0
"""For the threads of cases that were taken back; a process that takes longer dies with this one."""


class Concurrent(Executor, Protocol):
    """
    An executor whose `run` may be called from several threads at once.

    Closing it meanwhile makes the cases that run end at once. One that has a queue of its own has an
    attribute `last_seconds`: how long the last case of the calling thread took, if that is known.
    """


class Announcements:
    """
    Sentences from any thread, told in the thread that made this: no other may write on the screen.

    Args:
        announce: tells a sentence.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._thread = threading.get_ident()
        self._sentences: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __call__(self, sentence: str) -> None:
        self._sentences.put(sentence)
        if threading.get_ident() == self._thread:
            self.tell()

    def tell(self) -> None:
        while not self._sentences.empty():
            self._announce(self._sentences.get())


class Pool:
    """
    An executor that measures what it is told of ahead, in threads around another executor.

    What is scheduled starts wherever it fits: cases of many slots first, since they need all of these
    free at once, then the longest, so that none is left over at the end while most slots idle. A
    request that was not scheduled is measured when it is asked for, before all that wait.

    Args:
        executor: what measures; closed with the pool.
        slots: how many there are; None for as many as cases want.
        width: slots that a case takes; more than there are is as good as all.
        seconds: how long a request will take, roughly.
        announcements: what *executor* announces; told while a test waits.

    Attributes:
        last_seconds: how long the case took that `run` returned last, waiting for its turn left out.
    """

    def __init__(
        self,
        executor: Concurrent,
        *,
        slots: int | None,
        width: Callable[[Case], int],
        seconds: Callable[[Request], float],
        announcements: Announcements,
    ) -> None:
        self.executor = executor
        self.last_seconds = 0.0
        self._slots = slots
        self._free = slots or 0
        self._width = width
        self._seconds = seconds
        self._announcements = announcements
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[_Job] = []
        self._running: dict[_Job, threading.Thread] = {}
        self._unclaimed: defaultdict[Request, deque[_Job]] = defaultdict(deque)
        self._on_ahead: Callable[[], None] = lambda: None
        self._is_more_ahead = False
        self._closed = False

    def __str__(self) -> str:
        return f"{self.executor}" + (f", {self._slots} jobs" if self._slots else "")

    def schedule(self, requests: Iterable[Request], on_ahead: Callable[[], None] = lambda: None) -> None:
        """See `Scheduling.schedule`; they are measured from now on."""
        self._on_ahead = on_ahead
        with self._changed:
            for request in requests:
                self._unclaimed[request].append(self._added(request, urgent=False))
            self._start_what_fits()

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        """
        The measurement of *request*, once it is there; see `Executor.run`.

        Raises:
            Exception: whatever the executor raised for it.
        """
        with self._changed:
            known = self._unclaimed[request]
            job = known.popleft() if known else self._added(request, urgent=True)
            self._start_what_fits()
            is_queued = job in self._waiting
        if is_queued:
            on_phase(Phase(name="queued"))
        while not self._is_over(job, on_phase):
            pass
        self.last_seconds = job.seconds
        if job.error is not None:
            raise job.error
        assert job.measurement is not None
        return job.measurement

    def ahead(self, requests: Iterable[Request]) -> tuple[Timed, ...]:
        """See `Scheduling.ahead`."""
        found: dict[_Job, Timed] = {}
        with self._changed:
            for request in requests:
                for job in self._unclaimed[request]:
                    if job.measurement is not None and job not in found:
                        found[job] = Timed(job.measurement, job.seconds)
                        break
                else:
                    return ()
        return tuple(found.values())

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._waiting.clear()
            threads = list(self._running.values())
        self.executor.close()
        for thread in threads:
            thread.join(END_SECONDS)
        self._announcements.tell()

    def _is_over(self, job: _Job, on_phase: Callable[[Phase], None]) -> bool:
        """Wait for news of *job*, and pass it on."""
        with self._changed:
            self._changed.wait_for(lambda: job.is_over or job.phases or self._is_more_ahead, TELL_SECONDS)
            phases = [job.phases.popleft() for _ in range(len(job.phases))]
            is_over = job.is_over
            is_more_ahead, self._is_more_ahead = self._is_more_ahead, False
        for phase in phases:
            on_phase(phase)
        if is_more_ahead:
            self._on_ahead()
        self._announcements.tell()
        return is_over

    def _added(self, request: Request, *, urgent: bool) -> _Job:
        width = self._width(request.case)
        job = _Job(
            request,
            width=width if self._slots is None else min(width, self._slots),
            order=(not urgent, -width, -self._seconds(request), next(self._numbers)),
        )
        self._waiting.append(job)
        self._waiting.sort(key=lambda one: one.order)
        return job

    def _start_what_fits(self) -> None:
        for job in list(self._waiting):
            if self._closed:
                return
            if self._slots is not None and job.width > self._free:
                if job.is_urgent:  # what comes after it would keep it waiting for ever
                    return
                continue
            self._free -= job.width
            self._waiting.remove(job)
            # A daemon: what hangs in there must not keep a run from ending.
            self._running[job] = thread = threading.Thread(target=self._measure, args=(job,), daemon=True)
            thread.start()

    def _measure(self, job: _Job) -> None:
        def note(phase: Phase) -> None:
            with self._changed:
                job.phases.append(phase)
                self._changed.notify_all()

        job.run(self.executor, note)
        with self._changed:
            job.is_over = True
            self._is_more_ahead |= job in self._unclaimed[job.request]
            del self._running[job]
            self._free += job.width
            if isinstance(job.error, SetupError):  # of no case is another result to be had
                self._give_up(job.error)
            self._start_what_fits()
            self._changed.notify_all()

    def _give_up(self, error: SetupError) -> None:
        for job in self._waiting:
            job.error, job.is_over = error, True
        self._waiting.clear()


class _Job:
    """A request from being told of until it is measured."""

    def __init__(self, request: Request, *, width: int, order: tuple[bool, int, float, int]) -> None:
        self.request = request
        self.width = width
        self.order = order
        self.phases: deque[Phase] = deque(maxlen=1)
        """What the test that waits has not been told; nobody wants to know of earlier ones."""
        self.is_over = False
        self.measurement: Measurement | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0

    @property
    def is_urgent(self) -> bool:
        return not self.order[0]

    def run(self, executor: Executor, on_phase: Callable[[Phase], None]) -> None:
        started = time.monotonic()
        try:
            self.measurement = executor.run(self.request, on_phase)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread of the test
            self.error = error
        spent = getattr(executor, "last_seconds", None)
        self.seconds = time.monotonic() - started if spent is None else spent
