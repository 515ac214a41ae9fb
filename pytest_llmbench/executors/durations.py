"""How long cases take: as they took before where that is known, else by the size of what they do."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload

__all__ = ["Durations"]

_BILLIONS = re.compile(r"(\d+(?:[._]\d+)?)b(?![a-z0-9])", re.IGNORECASE)
_UNKNOWN_BILLIONS = 7.0
_WHOLE_EPOCH = 1800
"""Samples; what the published data has at most lengths."""

# Only the order matters. Seconds for a start, for a billion parameters to load, and for a sample of a
# billion parameters at 2048 tokens, all of which are roughly those of an H200.
_START, _LOAD, _SAMPLE = 5.0, 0.3, 0.02


class Durations:
    """
    What a scheduler asks for the seconds of a request.

    Args:
        known: earlier measurements, from baselines or results; of two for one case the later counts.
    """

    def __init__(self, known: Iterable[Measurement] = ()) -> None:
        self._known: dict[tuple[Case, str, int | str], float] = {}
        for measurement in known:
            if seconds := sum(measurement.processes[-1].phase_seconds.values()):
                self._known[_work(measurement.case, measurement.workload)] = seconds

    def __call__(self, request: Request) -> float:
        known = self._known.get(_work(request.case, request.workload))
        return known if known is not None else _estimate(request)


def _work(case: Case, workload: Workload) -> tuple[Case, str, int | str]:
    return case, workload.scale, workload.samples


def _estimate(request: Request) -> float:
    case, workload = request.case, request.workload
    if workload.scale == "smoke" and case.step is None:
        return 1.0
    found = _BILLIONS.search(case.model)
    billions = float(found[1].replace("_", ".")) if found else _UNKNOWN_BILLIONS
    samples = (
        _WHOLE_EPOCH if workload.samples == "full" else max(workload.samples, case.batch_size * case.accumulation_steps)
    )
    length = case.max_length / 2048
    return _START + billions * (_LOAD + _SAMPLE * samples * length)
