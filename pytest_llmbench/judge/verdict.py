"""What judging a measurement gives: a status per metric and one for the row, with effect, limit and reason."""

from __future__ import annotations

from typing import Literal

import msgspec

from pytest_llmbench.schema.environment import PackageChange
from pytest_llmbench.schema.metrics import Value

__all__ = ["MetricVerdict", "RowVerdict", "Status"]

Status = Literal["unchanged", "improved", "undecided", "unmeasured", "regressed", "not comparable", "no baseline"]
"""
`undecided`: it was measured, and noise leaves open whether it moved. `unmeasured`: something that counts is missing
or invalid, so that nothing is proven.
"""


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
    """
    How far `change` may be from 0 on either side; 0 demands equality, None as for `change`.

    Of a metric that is judged by its noise: the least change that these processes could prove.
    """
    interval: tuple[float, float] | None = None
    """95 % confidence interval of `change`; None for a metric whose noise is not known."""
    detectable: float | None = None
    """The change for the worse that these processes notice in nine of ten cases; None as for `interval`."""
    p_value: float | None = None
    """Chance that noise alone looks this much worse, one-sided; None for a metric that is not judged by its noise."""
    processes_needed: int | None = None
    """Of an undecided one: how many would settle it, as `reason` says; None where no number would."""
    device: int | None = None
    """The worst device, where there are several."""
    movers: tuple[str, ...] = ()
    """What moved it most, in words: `clone +192 a step in peft/tuners/lora/layer.py:Linear.forward`."""
    mover_costs: tuple[float, ...] = ()
    """Seconds a sample that each of them costs, about; by these movers of different metrics are put in order."""
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
    code_known: bool = True
    """Whether the files of all packages are known on both sides; else their versions are all that was compared."""
    unchanged_packages: tuple[str, ...] = ()
    """Names that are on both sides and the same on both."""
    differing: tuple[str, ...] = ()
    """What makes the two not comparable: `device`, `case.max_length`, `workload.samples`, ..."""
    processes_needed: int | None = None
    """The most that one of its undecided metrics needs; None where there is none, or no number would do."""
    explanation: str = ""
    """Where the difference sits, in words: GPU or host side, kernels, counts, memory; empty without one."""
    reason: str

    @property
    def failed(self) -> bool:
        """
        Whether a test of this row fails: it is known to be worse, or it is not known what should be.

        What noise leaves open does not fail. What `no baseline` does is the user's choice, made elsewhere.
        """
        return self.status in ("regressed", "not comparable", "unmeasured")
