"""The rows that are built in, by table."""

from __future__ import annotations

from collections.abc import Collection

from pytest_llmbench.tables import page
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLES", "Row", "Table", "in_page_order"]

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


def in_page_order(names: Collection[str]) -> list[str]:
    """Names of tables: the published ones as on the page, then the user's own as they come."""
    return [*(name for name in TABLES if name in names), *(name for name in names if name not in TABLES)]
