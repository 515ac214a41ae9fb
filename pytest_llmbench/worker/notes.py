"""
What a measuring process has found so far, kept so that an error half-way loses none of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from pytest_llmbench.schema.estimate import Estimate
from pytest_llmbench.schema.measurement import (
    AllocationShare,
    Evidence,
    KernelShare,
    MemoryPoint,
    Outcome,
    Process,
    Round,
)
from pytest_llmbench.schema.metrics import METRICS, NOTHING_SEEN, Value
from pytest_llmbench.schema.profile import Profile
from pytest_llmbench.schema.protocol import Phase

__all__ = ["Notes"]


class Notes:
    """Collects metrics, reasons, evidence and phase times, and closes them into a `Process`."""

    def __init__(self, report: Callable[[Phase], None]) -> None:
        self.ran: dict[str, str] = {}
        self.rounds: tuple[Round, ...] = ()
        self.kernels: tuple[KernelShare, ...] = ()
        self.memory: tuple[MemoryPoint, ...] = ()
        self.peak_allocations: tuple[AllocationShare, ...] = ()
        self.profile: Profile | msgspec.UnsetType = msgspec.UNSET
        self.estimate: Estimate | msgspec.UnsetType = msgspec.UNSET
        self.model_flops_per_sample: float | None = None
        """Flops of forward and backward passes, those of recomputed blocks left out; None if not counted."""
        self._report = report
        self.metrics: dict[str, Value] = {}
        self._missing: dict[str, str] = {}
        self._evidence = Evidence()
        self._observed: dict[str, Any] = {}
        self.phase_seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase and add up the time spent in it, errors included."""
        self._report(Phase(name))
        started = time.perf_counter()
        try:
            yield
        finally:
            self.phase_seconds[name] = self.phase_seconds.get(name, 0.0) + time.perf_counter() - started

    def speed(self, phase: str, samples_per_second: float) -> None:
        """Tell the other side how fast it goes so far."""
        self._report(Phase(phase, samples_per_second))

    def metric(self, name: str, value: Value | None, reason: str | None = None) -> None:
        """
        Note a metric, or why there is none. A counter that read 0 saw nothing.

        Raises:
            KeyError: no such metric in `metrics.METRICS`.
        """
        if value == 0 and METRICS[name].never_zero:
            value, reason = None, NOTHING_SEEN
        if METRICS[name] and value is not None:
            self.metrics[name] = value
            self._missing.pop(name, None)
        else:
            self._missing[name] = reason or "not measured"

    def evidence(self, evidence: Evidence, missing: dict[str, str]) -> None:
        """Note the evidence, and the reasons for the fields that could not be read."""
        self._evidence = evidence
        self._missing.update(missing)

    def observe(self, name: str, value: object, reason: str | None = None) -> None:
        """Note one more field of the evidence, or why it could not be read."""
        if value is None:
            self._missing[name] = reason or "not read"
        else:
            self._observed[name] = value

    def observed(self, name: str) -> Any:
        """A field of the evidence that was noted by itself; None if it was not."""
        return self._observed.get(name)

    def process(self, outcome: Outcome, reason: str | None = None) -> Process:
        return Process(
            outcome=outcome,
            reason=reason,
            metrics={name: self.metrics[name] for name in METRICS if name in self.metrics},
            missing=dict(self._missing),
            rounds=self.rounds,
            ran=dict(self.ran),
            evidence=msgspec.structs.replace(self._evidence, **self._observed),
            kernels=self.kernels,
            memory=self.memory,
            peak_allocations=self.peak_allocations,
            profile=self.profile,
            estimate=self.estimate,
            phase_seconds=dict(self.phase_seconds),
        )
