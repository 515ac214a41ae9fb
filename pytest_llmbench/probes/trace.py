"""
One optimizer step as files to look at: a trace for chrome://tracing or Perfetto, and the allocator's history.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pytest_llmbench.probes.recorder import Recorder

__all__ = ["TraceRecorder", "snapshot_path"]

_MAX_ALLOCATIONS = 500_000


def snapshot_path(trace: Path) -> Path:
    """Where the allocator's history goes that belongs to a trace; https://pytorch.org/memory_viz shows it."""
    return trace.with_suffix(".memory.pickle")


class TraceRecorder(Recorder):
    """
    Writes what is recorded to *path*, compressed if its name ends in `.gz`; on a GPU also `snapshot_path`.

    Shapes are recorded and stacks are not: they would make the trace of a step a gigabyte.
    """

    def __init__(self, path: Path, synchronise: Callable[[], None]) -> None:
        self._path = path
        self._synchronise = synchronise
        self._running: profile | None = None

    def begin(self) -> None:
        self._synchronise()
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=_MAX_ALLOCATIONS)
        self._running = profile(activities=activities, record_shapes=True)
        self._running.start()

    def boundary(self) -> None:
        """Nothing: the optimizer step has its own name in the trace."""

    def end(self) -> None:
        self._synchronise()
        profiler = self._stop()
        if profiler is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._path))
        if torch.cuda.is_available():
            torch.cuda.memory._dump_snapshot(str(snapshot_path(self._path)))

    def __exit__(self, *_: object) -> None:
        self._stop()
        if torch.cuda.is_available():
            torch.cuda.memory._record_memory_history(enabled=None)

    def _stop(self) -> profile | None:
        profiler, self._running = self._running, None
        if profiler is not None:
            profiler.stop()
        return profiler
