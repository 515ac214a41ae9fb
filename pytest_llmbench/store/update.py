"""Which results become baselines: what the user asked for, and what is refused whoever asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict, Status
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.strict import first_flaw

__all__ = [
    "RECORDABLE",
    "RefusedUpdate",
    "UpdateMode",
    "completed",
    "novel_metrics",
    "should_record",
    "why_refused",
]

UpdateMode = Literal["missing", "failing", "moved", "all"]
"""Each one records what those before it do, and more."""

RECORDABLE = ("ok", "oom")
"""The outcomes that can be a baseline."""

_RECORDS: dict[UpdateMode, tuple[Status, ...]] = {
    "missing": ("no baseline",),
    "failing": ("no baseline", "regressed", "not comparable"),
    "moved": ("no baseline", "regressed", "not comparable", "improved"),
    "all": ("no baseline", "regressed", "not comparable", "improved", "unchanged"),
}


class RefusedUpdate(ValueError):
    """A measurement that never becomes a baseline; the message says why."""


def should_record(mode: UpdateMode, verdict: RowVerdict) -> bool:
    """Whether *mode* asks for a row with this verdict; no mode records what is undecided or unmeasured."""
    return verdict.status in _RECORDS[mode]


def novel_metrics(verdict: RowVerdict) -> tuple[str, ...]:
    """
    Metrics that the row's baseline predates, and that any update adds to it; nothing else of it changes.

    Empty where the row failed, or in another environment: the baseline is of one.
    """
    if verdict.failed or verdict.status == "no baseline" or verdict.package_changes:
        return ()
    return tuple(metric.metric for metric in verdict.metrics if metric.status == "no baseline")


def completed(stored: Sequence[Process], now: Sequence[Process], names: Iterable[str]) -> tuple[Process, ...]:
    """
    The stored processes, the last that ended well with the metrics *names* of the present ones too.

    A profile goes with them where there is none; what its peak is made up of is told by the same names then.
    """
    position = max(number for number, process in enumerate(stored) if process.outcome == "ok")
    measured = [process.metrics for process in now if process.outcome == "ok"]
    added = {name: found[name] for name in names for found in measured if name in found}
    metrics = stored[position].metrics | added
    told = {name: reason for name, reason in stored[position].missing.items() if name not in metrics}
    whole = msgspec.structs.replace(stored[position], metrics=metrics, missing=told)
    explained = next((process for process in now if process.profile), None)
    if explained and not any(process.profile for process in stored):
        whole = msgspec.structs.replace(whole, profile=explained.profile, peak_allocations=explained.peak_allocations)
    return (*stored[:position], whole, *stored[position + 1 :])


def why_refused(measurement: Measurement) -> str | None:
    """One sentence, or None for a measurement that may become a baseline."""
    if measurement.outcome not in RECORDABLE:
        told = f": {measurement.reason}" if measurement.reason else ""
        return f"the outcome is {measurement.outcome!r}, and only 'ok' and 'oom' become baselines{told}"
    if measurement.environment is None:
        return "the environment is unknown, so it could not be found again"
    if measurement.workload.injection is not None:
        return f"{measurement.workload.injection.text} was planted in it"
    if measurement.outcome == "ok" and not measurement.processes[-1].metrics:
        return "nothing was measured"
    flaw = first_flaw(msgspec.to_builtins(measurement))
    return f"{'.'.join(map(str, flaw.place))} {flaw.sentence}" if flaw else None
