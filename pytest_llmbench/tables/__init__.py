"""The rows that are built in, by table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from pytest_llmbench.tables import page, today
from pytest_llmbench.tables.page import Row, Table

__all__ = ["ALL_TABLES", "PULL_REQUEST", "TABLES", "Row", "Table", "by_table"]

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

PULL_REQUEST = frozenset(
    {
        ("lora_max_length", "qwen-1_8b-chat-8192"),
        ("lora_max_length", "qwen-7b-chat-2048"),
        ("lora_max_length", "chatglm3-6b-2048"),
        ("lora_max_length", "yi-6b-chat-1024"),
        ("lora_max_length", "openbuddy-zephyr-7b-chat-512"),
        ("lora_max_length", "baichuan2-13b-chat-512"),
        ("full_max_length", "qwen-1_8b-chat-2048"),
        ("batch_size", "qwen-7b-chat-batch-4"),
        ("flash_attention", "qwen-7b-chat-flash-no-checkpointing"),
        ("flash_attention", "qwen-7b-chat-no-flash-checkpointing"),
        ("lora_rank", "qwen-7b-chat-rank-8-all"),
        ("quantization", "qwen-7b-chat-bnb-nf4"),
    }
)
"""
Rows, by table and name, that a pull request is judged by: together they have every family of models, attention of
flash-attn and of torch, padding, all targets, full training, no checkpointing and packed weights.
"""


def by_table(rows: Iterable[T], table_of: Callable[[T], str]) -> dict[str, list[T]]:
    """Rows by the name of their table: the built-in tables, the published first, then the user's own as they come."""
    found: dict[str, list[T]] = {name: [] for name in ALL_TABLES}
    for row in rows:
        found.setdefault(table_of(row), []).append(row)
    return {name: there for name, there in found.items() if there}
