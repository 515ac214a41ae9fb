"""Where the GPU's time goes, by kernel family, before and after."""

from __future__ import annotations

import msgspec

from pytest_llmbench.schema.measurement import KernelShare, Measurement
from pytest_llmbench.schema.units import apart, percent

__all__ = ["KernelLine", "Kernels", "kernels"]

_SHOWN = 12
_REST = "other"


class KernelLine(msgspec.Struct, frozen=True, kw_only=True):
    """One family of kernels on both sides; empty where that side did not launch it."""

    name: str
    before: str
    """Milliseconds per sample."""
    now: str
    before_percent: float
    """Of the longest bar."""
    now_percent: float
    launches: str
    change: str


class Kernels(msgspec.Struct, frozen=True):
    """The families that took most, longest first; `compared` where the baseline has them too."""

    lines: tuple[KernelLine, ...]
    compared: bool


def kernels(before: Measurement | None, now: Measurement) -> Kernels | None:
    """
    The kernels of the last process of each side that recorded them; None where this side has none.

    Families that take little, or are known to one side only because the other counts them as the rest,
    are added to `other`.
    """
    after, old = ({share.name: share for share in side.kernels} if side else {} for side in (now, before))
    if not after:
        return None
    longest = max(share.seconds_per_sample for share in (*after.values(), *old.values())) or 1.0
    by_time = sorted({*after, *old} - {_REST}, key=lambda name: -max(_seconds(after, name), _seconds(old, name)))
    lines = [_line(name, old.get(name), after.get(name), longest, bool(old)) for name in by_time[:_SHOWN]]
    rest = [*by_time[_SHOWN:], _REST]
    if any(name in side for name in rest for side in (after, old)):
        lines.append(_line(_REST, _sum(old, rest), _sum(after, rest), longest, bool(old)))
    return Kernels(tuple(lines), bool(old))


def _seconds(shares: dict[str, KernelShare], name: str) -> float:
    return shares[name].seconds_per_sample if name in shares else 0.0


def _sum(shares: dict[str, KernelShare], names: list[str]) -> KernelShare | None:
    found = [shares[name] for name in names if name in shares]
    if not found:
        return None
    return KernelShare(
        _REST, sum(share.launches_per_sample for share in found), sum(share.seconds_per_sample for share in found)
    )


def _line(name: str, old: KernelShare | None, new: KernelShare | None, longest: float, compared: bool) -> KernelLine:
    counts = apart(old, new, _launches)
    launches = " \N{RIGHTWARDS ARROW} ".join(dict.fromkeys(counts)) if compared else counts[1]
    change = ""
    if compared:
        if old and new and old.seconds_per_sample > 0:
            change = percent(new.seconds_per_sample / old.seconds_per_sample - 1)
        elif new is not None:
            change = "new"
        else:
            change = "gone"
    before, now = apart(old, new, _milliseconds)
    return KernelLine(
        name=name,
        before=before,
        now=now,
        before_percent=_of(old, longest),
        now_percent=_of(new, longest),
        launches=launches,
        change=change,
    )


def _milliseconds(share: KernelShare | None, more: int) -> str:
    return "" if share is None else f"{share.seconds_per_sample * 1e3:,.{2 + more}f}"


def _launches(share: KernelShare | None, more: int) -> str:
    return "0" if share is None else f"{share.launches_per_sample:,.{more}f}"


def _of(share: KernelShare | None, longest: float) -> float:
    return round(share.seconds_per_sample / longest * 100, 2) if share else 0.0
