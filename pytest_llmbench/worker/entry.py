"""What a measuring process runs for a request: the case in this process, or in ranks below it."""

from __future__ import annotations

from collections.abc import Callable

from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Phase, Request, Surroundings
from pytest_llmbench.worker.measure import measure as measure_here
from pytest_llmbench.worker.ranks import measure_ranks

__all__ = ["measure"]


def measure(request: Request, report: Callable[[Phase | Surroundings], None]) -> Measurement:
    """
    The measurement of *request*; ranks of their own where several processes train it together.

    Raises:
        CaseError, ImportError: as `worker.measure.measure`.
    """
    return (measure_here if request.case.parallelism == "split" else measure_ranks)(request, report)
