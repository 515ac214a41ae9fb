"""The only place that turns bytes, seconds and ratios into text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["about", "apart", "counted", "gib", "percent", "plain", "seconds", "size"]

Figure = TypeVar("Figure")
_MORE_DIGITS = 18
"""Digits that tell any two floats apart, beside those of the usual text."""


def apart(before: Figure, after: Figure, show: Callable[[Figure, int], str]) -> tuple[str, str]:
    """
    Two figures as text, with more digits than usual where they differ and would read alike.

    Args:
        show: writes a figure, with so many digits more than usual.
    """
    usual = show(before, 0), show(after, 0)
    if before == after:
        return usual
    tried = ((show(before, more), show(after, more)) for more in range(_MORE_DIGITS))
    return next((texts for texts in tried if texts[0] != texts[1]), usual)


def gib(count_bytes: float, more: int = 0) -> str:
    """GiB (1024 ** 3 bytes) with two decimals, as the published page prints memory, or with *more*."""
    return f"{count_bytes / 2**30:.{2 + more}f}"


def size(count_bytes: float, more: int = 0) -> str:
    """Bytes in the largest unit that they fill: "812 B", "64 MiB", "1.50 GiB"; or with *more* decimals."""
    mib = count_bytes / 2**20
    if mib < 1:
        return f"{count_bytes:,.{more}f} B"
    return f"{mib:,.{more}f} MiB" if mib < 1024 else f"{mib / 1024:,.{2 + more}f} GiB"


def percent(ratio: float) -> str:
    """A signed change in percent: 0.031 is "+3.1 %"; below a tenth of a percent, two decimals."""
    digits = 1 if abs(ratio) >= 0.001 or ratio == 0 else 2
    return f"{ratio * 100:+.{digits}f} %"


def plain(value: object) -> str:
    """A field of a case as a cell of a table."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def about(duration: float) -> str:
    """An estimated duration: "9 s", "7 min", "2.5 h"."""
    if duration < 99.5:
        return f"{max(1, round(duration))} s"
    if duration < 99.5 * 60:
        return f"{round(duration / 60)} min"
    return f"{duration / 3600:.1f} h"


def counted(count: int, thing: str) -> str:
    """Number and noun, as "1 row", "2 rows" and "2 processes"."""
    return f"{count} {thing}" + ("" if count == 1 else "es" if thing.endswith("s") else "s")


def seconds(duration: float) -> str:
    """A duration a person reads at a glance: "0.42 s", "12 s", "3 min 05 s"."""
    if duration < 10:
        return f"{duration:.2f} s"
    if duration < 120:
        return f"{duration:.0f} s"
    return f"{int(duration // 60)} min {int(duration % 60):02d} s"
