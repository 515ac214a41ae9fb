"""Rows beside those of the published page: how people train today."""

from __future__ import annotations

from pytest_llmbench.schema.case import Attention, Case, Loop
from pytest_llmbench.tables.page import Row, Table

__all__ = ["AS_USERS_TRAIN"]

_MODEL = "yi-6b-chat"
"""Its code is transformers' own (Llama), masks included."""

_ROWS: tuple[tuple[str, Loop, Attention, int], ...] = (
    ("sdpa", "step", "sdpa", 1),
    ("batch-4", "step", "flash", 4),
    ("sdpa-batch-4", "step", "sdpa", 4),
    ("trainer", "trainer", "flash", 1),
    ("trainer-sdpa", "trainer", "sdpa", 1),
    ("trainer-sdpa-batch-4", "trainer", "sdpa", 4),
)

AS_USERS_TRAIN = Table(
    name="as_users_train",
    title="As users train",
    columns=(("Model", "model"), ("Loop", "loop"), ("Attention", "attention"), ("Batch size", "batch_size")),
    rows=tuple(
        Row(f"{_MODEL}-{name}", Case(model=_MODEL, loop=loop, attention=attention, batch_size=batch_size))
        for name, loop, attention, batch_size in _ROWS
    ),
)
"""Attention of torch, the default of transformers, padded batches, and the Trainer, which has a mask for every batch."""
