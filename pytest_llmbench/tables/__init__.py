"""The rows that are built in, by table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from pytest_llmbench.tables import page
from pytest_llmbench.tables.page import Row, Table

__all__ = ["TABLES", "Row", "Table", "by_table"]

T = TypeVar("T")

TABLES = {
    table.name: table
    for table in (
        page.QUANTIZATION,
        page.LORA_MAX_LENGTH,
        page.FULL_MAX_LENGTH,
        page.BATCH_SIZE,
        page.FLASH_ATTENTION,
        page.LORA_RANK,
        page.GRADIENT_ACCUMULATION,
    )
}
"""By name, in the order of the page."""


def by_table(rows: Iterable[T], table_of: Callable[[T], str]) -> dict[str, list[T]]:
    """Rows by the name of their table: the published tables as on the page, then the user's own as they come."""
    found: dict[str, list[T]] = {name: [] for name in TABLES}
    for row in rows:
        found.setdefault(table_of(row), []).append(row)
    return {name: there for name, there in found.items() if there}
