"""Which results become baselines: what the user asked for, and what is refused whoever asks."""

from __future__ import annotations

from typing import Literal

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict, Status
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.strict import first_flaw

__all__ = ["RECORDABLE", "RefusedUpdate", "UpdateMode", "should_record", "why_refused"]

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
