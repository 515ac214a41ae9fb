"""
The published page with measured columns beside its own, from stored baselines, as Markdown.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from pytest_llmbench.judge.values import typical_value
from pytest_llmbench.reports.markdown import markdown_table
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.units import gib, percent, plain
from pytest_llmbench.store.baseline import BaselineFile, BaselineRow
from pytest_llmbench.store.published import PublishedRow, PublishedTable
from pytest_llmbench.tables import TABLES, Row, Table

__all__ = ["reproduction"]

_HEADERS = (
    "published samples/s",
    "samples/s",
    "GPU-busy samples/s",
    "published GiB",
    "reserved GiB",
    "difference",
    "allocated GiB",
    "footprint GiB",
    "attention that ran",
    "linear class",
)


def reproduction(published: Mapping[str, PublishedTable], measured: Mapping[str, BaselineFile]) -> str:
    """
    One Markdown table for each published table, and how far reserved memory is from the published GiB.

    `GPU-busy samples/s` is what the row would reach if the GPU never waited: one over the
    device-busy seconds per sample.

    Args:
        published: by table.
        measured: baselines of one device, by table; a row that is missing there is left empty.
    """
    parts = [_summary(published, measured)]
    for table in TABLES.values():
        parts += [f"## {table.title}", _table(table, published[table.name], measured.get(table.name))]
    return "\n\n".join(parts) + "\n"


def _summary(published: Mapping[str, PublishedTable], measured: Mapping[str, BaselineFile]) -> str:
    rows = [(name, row) for name, table in TABLES.items() for row in table.rows]
    # A table may have more: the same rows under the Trainer.
    known = [(name, row, measured[name]) for name, row in rows if name in measured and row.id in measured[name].rows]
    differences = [
        abs(difference)
        for name, row, file in known
        if row.case.num_gpus == 1
        and (difference := _difference(published[name].rows[row.id], file, file.rows[row.id])) is not None
    ]
    told = f"{len(known)} of {len(rows)} rows are measured."
    if differences:
        median = percent(statistics.median(differences)).lstrip("+")
        told += (
            f" Over the {len(differences)} single-GPU rows with memory on both sides, reserved memory differs from the "
            f"published by {median} in the median, and by more than 10 % in {sum(d > 0.1 for d in differences)} rows."
        )
    return told


def _table(table: Table, published: PublishedTable, measured: BaselineFile | None) -> str:
    headers = (*(header for header, _ in table.columns), *_HEADERS)
    return markdown_table(headers, (_cells(table, row, published.rows[row.id], measured) for row in table.rows))


def _cells(table: Table, row: Row, published: PublishedRow, file: BaselineFile | None) -> Iterator[str]:
    for _, field in table.columns:
        yield plain(getattr(row.case, field))
    stored = file.rows.get(row.id) if file else None
    yield _optional(published.samples_per_second, "{:.2f}")
    if file is None or stored is None:
        yield from ("", "", _published_memory(published), *[""] * 6)
        return
    metrics = _typical(file, stored)
    busy = metrics.get("device_busy_seconds_per_sample")
    yield _optional(metrics.get("samples_per_second"), "{:.2f}") if stored.outcome == "ok" else stored.outcome
    yield f"{1 / busy:.2f}" if isinstance(busy, float) and busy else ""
    yield _published_memory(published)
    yield _memory(metrics.get("peak_reserved_bytes"))
    yield _optional(_difference(published, file, stored), "{:+.1%}")
    yield _memory(metrics.get("peak_allocated_bytes"))
    yield _memory(metrics.get("peak_footprint_bytes"))
    ran = stored.processes[-1].ran
    yield ran.get("attention", "")
    yield ran.get("linear", "")


def _typical(file: BaselineFile, stored: BaselineRow) -> dict[str, Value]:
    measurement = stored.measurement(file.environments[stored.environment])
    if stored.outcome == "oom":
        return dict(stored.processes[-1].metrics)
    names = stored.processes[-1].metrics
    return {name: value for name in names if (value := typical_value(measurement, name)) is not None}


def _difference(published: PublishedRow, file: BaselineFile, stored: BaselineRow) -> float | None:
    """Of reserved memory, of all GPUs together, relative to the published; where both fit."""
    reserved = _typical(file, stored).get("peak_reserved_bytes")
    if stored.outcome != "ok" or not isinstance(reserved, tuple) or published.memory_gib is None:
        return None
    if len(reserved) != len(published.memory_gib):
        return None
    return sum(reserved) / 2**30 / sum(published.memory_gib) - 1


def _published_memory(published: PublishedRow) -> str:
    if published.memory_gib is None:
        return "OOM" if published.outcome == "oom" else ""
    return "+".join(f"{value:.2f}" for value in published.memory_gib)


def _memory(value: Value | None) -> str:
    return "+".join(gib(part) for part in value) if isinstance(value, tuple) else ""


def _optional(value: object, form: str) -> str:
    return "" if value is None else form.format(value)
