"""The only place that turns bytes, seconds and ratios into text."""

from __future__ import annotations

__all__ = ["gib", "percent", "seconds"]


def gib(count_bytes: float) -> str:
    """GiB (1024 ** 3 bytes) with two decimals, as the published page prints memory."""
    return f"{count_bytes / 2**30:.2f}"


def percent(ratio: float) -> str:
    """A signed change in percent: 0.031 is "+3.1 %"; below a tenth of a percent, two decimals."""
    digits = 1 if abs(ratio) >= 0.001 or ratio == 0 else 2
    return f"{ratio * 100:+.{digits}f} %"


def seconds(duration: float) -> str:
    """A duration a person reads at a glance: "0.42 s", "12 s", "3 min 05 s"."""
    if duration < 10:
        return f"{duration:.2f} s"
    if duration < 120:
        return f"{duration:.0f} s"
    return f"{int(duration // 60)} min {int(duration % 60):02d} s"
