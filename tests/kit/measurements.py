"""Measurements whose values a test sets: one process for each mapping of metrics, on the GPU of `surroundings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Outcome, Process
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.workload import Workload
from surroundings import environment

__all__ = ["BUSY", "CASE", "LOSS", "SPEED", "ended", "good", "is_open", "measured", "open_row"]

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


def open_row(slower: float = 0.015) -> RowVerdict:
    """The verdict on a row that is slower on the GPU, but not by so much that noise could not be all of it."""
    row = judge(measured({BUSY: 0.25 * (1 + slower)}), Reference(measurement=measured({BUSY: 0.25})))
    assert is_open(row)
    return row


def is_open(verdict: RowVerdict) -> bool:
    """Whether noise leaves the row open: it does not fail, and nothing is known of it."""
    return not verdict.failed and verdict.status not in ("unchanged", "improved", "no baseline")
