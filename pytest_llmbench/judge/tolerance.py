"""Tolerances as users write them, on the command line and in the ini file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from pytest_llmbench.schema.metrics import METRICS, Tolerance
from pytest_llmbench.schema.text import hint_at

__all__ = ["ToleranceError", "parse_tolerance", "parse_tolerances"]

_PART = re.compile(r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)\s*(?P<unit>%|[KMG]iB|B)?", re.IGNORECASE | re.ASCII)
_BYTES = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class ToleranceError(ValueError):
    """A tolerance that cannot be read; the message repeats it and says what would do."""


def parse_tolerances(texts: Iterable[str]) -> dict[str, Tolerance]:
    """
    By metric; of two for the same metric the later counts.

    Raises:
        ToleranceError: the first text that `parse_tolerance` refuses.
    """
    return dict(parse_tolerance(text) for text in texts if text.strip())


def parse_tolerance(text: str) -> tuple[str, Tolerance]:
    """
    The metric and the tolerance of `METRIC=LIMIT`.

    A limit has a relative part (`8%`), an absolute part in the metric's unit (`0.05`, or for bytes
    also `64MiB`), or both with a `+` between them, which means the larger of the two.

    Raises:
        ToleranceError: no such metric, or not such a limit.
    """
    name, equals, limit = (part.strip() for part in text.partition("="))
    if not equals:
        raise ToleranceError(f"tolerance {text!r} is not of the form METRIC=LIMIT, as in samples_per_second=8%")
    if name not in METRICS:
        hint = hint_at(name, METRICS, f"known: {', '.join(METRICS)}")
        raise ToleranceError(f"tolerance {text!r}: unknown metric {name!r}; {hint}")
    found: dict[str, float] = {}
    for part in limit.split("+"):
        kind, amount = _part(text, part.strip(), in_bytes=METRICS[name].unit == "B")
        if kind in found:
            raise ToleranceError(f"tolerance {text!r} has two {kind} parts; write at most one of each")
        found[kind] = amount
    return name, Tolerance(relative=found.get("relative", 0.0), absolute=found.get("absolute", 0.0))


def _part(text: str, part: str, *, in_bytes: bool) -> tuple[str, float]:
    match = _PART.fullmatch(part)
    amount = float(match["number"]) if match else math.inf
    if match is None or not math.isfinite(amount):
        raise ToleranceError(f"tolerance {text!r}: {part!r} is not a limit; write it as 8%, 0.05, 64MiB or 2%+64MiB")
    unit = (match["unit"] or "").lower()
    if unit == "%":
        return "relative", amount / 100
    if unit and not in_bytes:
        raise ToleranceError(f"tolerance {text!r}: {part!r} is in bytes, the metric is not")
    return "absolute", amount * _BYTES.get(unit, 1)
