"""The rows that are built in, by table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from pytest_llmbench.tables import page, today
from pytest_llmbench.tables.page import Row, Table

__all__ = ["ALL_TABLES", "TABLES", "Row", "Table", "by_table"]

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
"""The published ones by name, in the order of the page."""

ALL_TABLES = {**TABLES, today.AS_USERS_TRAIN.name: today.AS_USERS_TRAIN}
"""Those and the tables beside them."""


def by_table(rows: Iterable[T], table_of: Callable[[T], str]) -> dict[str, list[T]]:
    """Rows by the name of their table: the built-in tables, the published first, then the user's own as they come."""
    found: dict[str, list[T]] = {name: [] for name in ALL_TABLES}
    for row in rows:
        found.setdefault(table_of(row), []).append(row)
    return {name: there for name, there in found.items() if there}
