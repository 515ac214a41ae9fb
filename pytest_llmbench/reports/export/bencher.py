"""Bencher Metric Format: a benchmark per row, a measure per metric, with the processes' range around the median."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from pytest_llmbench.reports.export.values import series
from pytest_llmbench.store.results import Result

__all__ = ["export"]


def export(results: Sequence[Result]) -> str:
    """JSON for `bencher run --adapter json --file FILE`; measures are named as the metrics, with dashes."""
    found = {
        result.name: {
            one.name.replace("_", "-"): {
                "value": statistics.median(one.values),
                "lower_value": min(one.values),
                "upper_value": max(one.values),
            }
            for one in series(result)
        }
        for result in results
    }
    data = {name: measures for name, measures in found.items() if measures}
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n"
