"""
How many calls Python code makes in a stretch of training: the host's work, counted without noise.

Wall time cannot show that a library got a few percent slower in Python; the number of calls can.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from pytest_llmbench.probes.recorder import NotCounted, Recorder

__all__ = ["CallRecorder"]


class CallRecorder(Recorder):
    """
    Counts calls from Python code, of Python and of C functions, in the micro-batches and in the optimizer step.

    Since Python 3.12 in all threads (`sys.monitoring`); before, in the calling thread only
    (`sys.setprofile`), which misses what autograd calls back from its thread for a GPU.

    Args:
        all_threads: whether the other threads' calls must be among them.
        without: a source file whose functions, and calls from them, are not counted.

    Raises:
        NotCounted: they must and cannot, or another tool counts or traces already.
    """

    def __init__(self, *, all_threads: bool, without: str | None = None) -> None:
        if all_threads and sys.version_info < (3, 12):
            raise NotCounted("calls of autograd's threads can be counted since Python 3.12 only")
        if sys.getprofile() is not None:
            raise NotCounted("another profiler runs in this process")
        self.micro_batches = 0
        self.optimizer_step = 0
        self._without = without
        self._stop: Callable[[], int] | None = None

    def begin(self) -> None:
        self._stop = _counting(self._without)

    def boundary(self) -> None:
        self.micro_batches = self._end()
        self._stop = _counting(self._without)

    def end(self) -> None:
        self.optimizer_step = self._end()

    def __exit__(self, *_: object) -> None:
        if self._stop is not None:
            self._end()

    def _end(self) -> int:
        assert self._stop is not None
        stop, self._stop = self._stop, None
        return stop()


if sys.version_info >= (3, 12):

    def _counting(without: str | None) -> Callable[[], int]:
        """
        Start to count; what is returned stops it and gives the number.

        Raises:
            NotCounted: a profiler is registered already.
        """
        monitoring = sys.monitoring
        calls = 0

        def count(code: CodeType, *_: object) -> None:
            nonlocal calls
            calls += code.co_filename != without

        try:
            monitoring.use_tool_id(monitoring.PROFILER_ID, "llmbench")
        except ValueError:
            raise NotCounted("another profiler runs in this process") from None
        monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.CALL, count)
        monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.CALL)

        def stop() -> int:
            monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.NO_EVENTS)
            monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.CALL, None)
            monitoring.free_tool_id(monitoring.PROFILER_ID)
            return calls

        return stop

else:

    def _counting(without: str | None) -> Callable[[], int]:
        """Start to count; what is returned stops it and gives the number."""
        calls = 0

        def count(frame: FrameType, event: str, arg: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call") and frame.f_code.co_filename != without

        sys.setprofile(count)

        def stop() -> int:
            sys.setprofile(None)
            return calls

        return stop
