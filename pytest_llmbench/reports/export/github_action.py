"""The custom JSON of github-action-benchmark, which takes one direction a file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

from pytest_llmbench.reports.export.values import series
from pytest_llmbench.reports.table import verdict_text
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.store.results import Result

__all__ = ["Better", "export"]

Better = Literal["smaller", "bigger"]
_DIRECTION = {"lower": "smaller", "higher": "bigger"}


def export(results: Sequence[Result], better: Better) -> str:
    """
    JSON for the tool `customSmallerIsBetter` or `customBiggerIsBetter`, with the metrics of that direction.

    Metrics that must not move in any direction are in neither.
    """
    entries = [
        {
            "name": f"{result.name} {one.name}",
            "unit": METRICS[one.metric].unit,
            "value": statistics.median(one.values),
            **({"range": f"{(max(one.values) - min(one.values)) / 2:.6g}"} if len(one.values) > 1 else {}),
            "extra": _verdicts(result, one.metric),
        }
        for result in results
        for one in series(result)
        if one.metric in METRICS and _DIRECTION.get(METRICS[one.metric].better) == better
    ]
    return msgspec.json.format(msgspec.json.encode(entries), indent=2).decode() + "\n"


def _verdicts(result: Result, metric: str) -> str:
    """The row's, and the metric's where it was held against a baseline."""
    judged = (verdict_text(one) for one in result.verdict.metrics if one.metric == metric)
    return ", ".join([f"row: {result.told}", *(f"metric: {told}" for told in judged)])
