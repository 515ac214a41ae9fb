"""What judging a measurement gives: a status per metric and one for the row, with effect, limit and reason."""

from __future__ import annotations

from typing import Literal

import msgspec

from pytest_llmbench.environment import PackageChange
from pytest_llmbench.metrics import Value

__all__ = ["MetricVerdict", "RowVerdict", "Status"]

Status = Literal["unchanged", "regressed", "improved", "inconclusive", "not comparable", "no baseline"]


class MetricVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One metric held against its baseline. Where it is given per device, that of the worst device."""

    metric: str
    status: Status
    baseline: Value | None = None
    """Median over the processes, in the metric's unit, for every device; None where the baseline lacks it."""
    now: Value | None = None
    change: float | None = None
    """Relative to the baseline, positive for a larger value; None without a baseline other than 0."""
    limit: float | None = None
    """How far `change` may be from 0 on either side; 0 demands equality, None as for `change`."""
    device: int | None = None
    """The worst device, where there are several."""
    gates: bool
    """Whether this metric counts for the row."""
    reason: str


class RowVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One row held against its baseline."""

    status: Status
    metrics: tuple[MetricVerdict, ...] = ()
    """In the order of `metrics.METRICS`; empty where the outcomes alone decided."""
    package_changes: tuple[PackageChange, ...] = ()
    """What else is new since the baseline: packages, driver, CUDA, Python, allocator settings."""
    unchanged_packages: tuple[str, ...] = ()
    """Names that are on both sides and the same on both."""
    differing: tuple[str, ...] = ()
    """What makes the two not comparable: `device`, `case.max_length`, `workload.samples`, ..."""
    reason: str

    @property
    def failed(self) -> bool:
        """Whether a test of this row fails; what `no baseline` does is the user's choice, made elsewhere."""
        return self.status in ("regressed", "inconclusive", "not comparable")
