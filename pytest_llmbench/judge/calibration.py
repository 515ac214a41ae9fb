"""
What measuring one environment again and again says of each row: its noise, and what it can see by that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from pytest_llmbench.judge.comparable import differences, environment_changes
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.noise import estimate_noise, row_class
from pytest_llmbench.judge.speed import SEES
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import METRICS, Noise, RowClass

__all__ = ["Calibration", "calibrated"]


class Calibration(NamedTuple):
    """The noise of one row, and what follows from it."""

    noise: dict[str, Noise]
    """By statistical metric."""
    detectable: dict[str, float]
    """The least relative change for the worse that one process notices against the baseline in nine of ten cases."""
    row_class: RowClass
    sessions: int
    processes: int
    passed_over: tuple[str, ...]
    """Why a measurement was left out, one sentence each."""

    @property
    def advisory(self) -> tuple[str, ...]:
        """Metrics too noisy to see a change of 3 %: they are shown, and count only where they look worse all the same."""
        return tuple(name for name, effect in self.detectable.items() if effect > SEES)


def calibrated(against: Reference, measurements: Iterable[Measurement]) -> Calibration:
    """
    Noise from a baseline and later measurements of the very same environment, each a session of its own.

    A measurement of another environment, of other work as its losses, counts and memory tell, or with
    something planted in it, is passed over; one that is given twice counts once.
    """
    baseline = against.measurement
    sessions, passed_over = {baseline.measured_at: baseline}, []
    for measurement in measurements:
        if (why := _unfit(against, measurement)) is not None:
            passed_over.append(why)
        else:
            sessions.setdefault(measurement.measured_at, measurement)
    noise = estimate_noise(list(sessions.values()))
    reference = msgspec.structs.replace(against, noise=noise)
    verdict = judge(msgspec.structs.replace(baseline, processes=baseline.processes[-1:]), reference)
    return Calibration(
        noise=noise,
        detectable={one.metric: one.detectable for one in verdict.metrics if one.detectable is not None},
        row_class=row_class(baseline, baseline),
        sessions=len(sessions),
        processes=sum(process.outcome == "ok" for session in sessions.values() for process in session.processes),
        passed_over=tuple(passed_over),
    )


def _unfit(against: Reference, measurement: Measurement) -> str | None:
    baseline = against.measurement
    if measurement.outcome != "ok":
        return f"ended {measurement.outcome}"
    if measurement.workload.injection is not None:
        return "something was planted in it"
    if found := differences(baseline, measurement, against.workload_version):
        return f"not comparable: {', '.join(found)}"
    changes, _ = environment_changes(baseline.environment, measurement.environment)
    if changes:
        return f"another environment: {'; '.join(map(str, changes))}"
    moved = ", ".join(_of_other_work(judge(measurement, against)))
    return f"it did other work: {moved} moved" if moved else None


def _of_other_work(verdict: RowVerdict) -> Iterator[str]:
    """All but speeds: within one environment losses, counts and memory are the same if the same is computed."""
    for one in verdict.metrics:
        if one.gates and METRICS[one.metric].gate != "statistical" and one.status in ("regressed", "improved"):
            yield one.metric
