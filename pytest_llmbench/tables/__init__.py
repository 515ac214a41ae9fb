"""
The 96 rows of the published page as values, one module per table.

The page is the benchmark of ms-swift of January 2024, `docs/source_en/LLM/Benchmark.md` in its repository.
"""

from __future__ import annotations

from collections.abc import Collection

from pytest_llmbench.tables import (
    batch_size,
    flash_attention,
    full_max_length,
    gradient_accumulation,
    lora_max_length,
    lora_rank,
    quantization,
)
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLES", "Row", "Table", "in_page_order"]

TABLES = {
    table.name: table
    for table in (
        quantization.TABLE,
        lora_max_length.TABLE,
        full_max_length.TABLE,
        batch_size.TABLE,
        flash_attention.TABLE,
        lora_rank.TABLE,
        gradient_accumulation.TABLE,
    )
}
"""By name, in the order of the page."""


def in_page_order(names: Collection[str]) -> list[str]:
    """Names of tables: the published ones as on the page, then the user's own as they come."""
    return [*(name for name in TABLES if name in names), *(name for name in names if name not in TABLES)]
