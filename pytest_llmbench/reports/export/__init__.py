"""Results in the formats of other tools, one module each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pytest_llmbench.reports.export import bencher, csv, github_action, junit, pytest_benchmark
from pytest_llmbench.store.results import Result

__all__ = ["Format", "export"]

Format = Literal["pytest-benchmark", "bencher", "github-action-benchmark", "csv", "junit"]

_WRITERS: dict[Format, Callable[[Sequence[Result]], str]] = {
    "pytest-benchmark": pytest_benchmark.export,
    "bencher": bencher.export,
    "csv": csv.export,
    "junit": junit.export,
}


def export(results: Sequence[Result], to: Format, *, better: github_action.Better = "smaller") -> str:
    """
    The results as a file of that tool.

    Args:
        better: which metrics go into a file of github-action-benchmark, that takes one direction a file.
    """
    if to == "github-action-benchmark":
        return github_action.export(results, better)
    return _WRITERS[to](results)
