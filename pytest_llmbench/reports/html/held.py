"""
A result with what it is shown beside: the stored baseline that it was held against, and the published row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pytest_llmbench.judge.values import typical_value, values
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.baselines import Baselines
from pytest_llmbench.store.published import PublishedRow, PublishedTable
from pytest_llmbench.store.results import Result

__all__ = ["Held", "held", "total", "values_of"]


class Held(NamedTuple):
    """One row as the report shows it."""

    result: Result
    before: Measurement | None
    """The processes behind the verdict's baseline; None where they are not to be had any more."""
    note: str
    """Why they are not, where there was a baseline."""
    published: PublishedRow | None


def held(results: Iterable[Result], store: Baselines | None, published: Mapping[str, PublishedTable]) -> Iterator[Held]:
    """
    The results with their baselines out of *store*, as far as those are the ones that were judged against.

    Args:
        store: None where there is none to look into.
        published: by table.
    """
    for result in results:
        before, note = _before(result, store)
        table = published.get(result.table)
        yield Held(result, before, note, table.rows.get(result.row) if table else None)


def _before(result: Result, store: Baselines | None) -> tuple[Measurement | None, str]:
    judged = {verdict.metric: verdict.baseline for verdict in result.verdict.metrics if verdict.baseline is not None}
    if store is None or not judged:
        return None, ""
    try:
        stored = store.find(result.measurement, result.table, result.row)
    except BaselineError as error:
        return None, f"The baseline's processes are not shown: {error}"
    if stored is None:
        return None, "The baseline's processes are not shown: it is not in the folder of baselines."
    if any(typical_value(stored.measurement, name) != value for name, value in judged.items()):
        return None, "The baseline's processes are not shown: the baseline was recorded again after this run."
    return stored.measurement, ""


def total(value: Value | None) -> float | None:
    """A number for bars and axes: that of all devices together."""
    if isinstance(value, tuple):
        return float(sum(value)) if value else None
    return None if value is None else float(value)


def values_of(measurement: Measurement | None, metric: str) -> list[float]:
    """One number for each process that ended well and measured it, see `total`."""
    found = values(measurement, metric) if measurement else ()
    return [number for value in found if (number := total(value)) is not None]
