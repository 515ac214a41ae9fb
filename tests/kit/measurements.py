"""Measurements whose values a test sets: one process for each mapping of metrics, on the GPU of `surroundings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Outcome, Process
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.workload import Workload
from surroundings import environment

__all__ = ["BUSY", "CASE", "LOSS", "SPEED", "ended", "good", "measured"]

CASE = Case(model="qwen-7b-chat")
BUSY, SPEED, LOSS = "device_busy_seconds_per_sample", "samples_per_second", "loss_first"


def measured(*processes: Mapping[str, Value] | Process, **changes: Any) -> Measurement:
    """A measurement of these processes, or of the metrics of processes that ended well."""
    default = Measurement(
        case=CASE,
        workload=Workload(),
        environment=environment(packages={"torch": "2.11.0"}),
        processes=tuple(one if isinstance(one, Process) else good(one) for one in processes),
        measured_at="2026-11-24T10:00:00Z",
    )
    return msgspec.structs.replace(default, **changes)


def good(metrics: Mapping[str, Value], **changes: Any) -> Process:
    """A process that ended well."""
    return Process(outcome="ok", metrics=dict(metrics), **changes)


def ended(outcome: Outcome, reason: str | None = "why") -> Process:
    """A process that did not."""
    return Process(outcome=outcome, reason=reason)
