"""The rows that are built in, by table."""

from __future__ import annotations

from collections.abc import Collection

from pytest_llmbench.tables import page, today
from pytest_llmbench.tables.table import Row, Table

__all__ = ["ALL_TABLES", "TABLES", "Row", "Table", "in_page_order"]

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


def in_page_order(names: Collection[str]) -> list[str]:
    """Names of tables: the built-in ones, the published first, then the user's own as they come."""
    return [*(name for name in ALL_TABLES if name in names), *(name for name in names if name not in ALL_TABLES)]
