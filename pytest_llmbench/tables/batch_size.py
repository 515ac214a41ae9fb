"""One to eight samples per micro-batch, sixteen per optimizer step throughout."""

from __future__ import annotations

from pytest_llmbench.schema.case import Case
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLE"]

# The page lists 16 accumulation steps for all rows, but what it ran took 16 / batch size by default.
TABLE = Table(
    name="batch_size",
    title="Batch Size",
    columns=(("Model", "model"), ("Batch Size", "batch_size"), ("Accumulation Steps", "accumulation_steps")),
    rows=tuple(
        Row(
            f"qwen-7b-chat-batch-{size}",
            Case(model="qwen-7b-chat", batch_size=size, accumulation_steps=16 // size),
        )
        for size in (1, 2, 4, 8)
    ),
)
