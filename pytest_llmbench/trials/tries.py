"""One valid process: what was disturbed while it was measured is measured again."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pytest_llmbench.judge.validity import why_invalid
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Request

__all__ = ["MOST_TRIES", "disturbance", "until_valid"]

MOST_TRIES = 3
"""Times that a process is measured that its evidence makes invalid, before the row is."""


def until_valid(
    request: Request, run: Callable[[], Measurement], announce: Callable[[str], None], *, shared_gpu: bool
) -> Measurement:
    """
    One process, measured again while its evidence speaks against it; after the last try it is invalid.

    Args:
        request: what *run* measures, once a call.
        announce: called with a sentence for each try that does not count.
        shared_gpu: other programs may use the GPU.
    """
    tries = 0
    while True:
        measurement = run()
        reason = disturbance(measurement, shared_gpu=shared_gpu)
        if reason is None:
            return measurement
        tries += 1
        announce(f"{request.case.model}: {reason}; try {tries} of {MOST_TRIES} does not count")
        if tries == MOST_TRIES:
            process = measurement.processes[-1]
            process = msgspec.structs.replace(process, outcome="invalid", reason=f"{reason}, in {tries} tries")
            return msgspec.structs.replace(measurement, processes=(process,))


def disturbance(measurement: Measurement, *, shared_gpu: bool) -> str | None:
    """Why its last process may not be trusted, as `why_invalid` says; None if it may."""
    on_gpu = measurement.workload.device == "cuda"
    return why_invalid(measurement.processes[-1], shared=shared_gpu, on_gpu=on_gpu)
