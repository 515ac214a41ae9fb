"""One to sixty-four micro-batches per optimizer step."""

from __future__ import annotations

from pytest_llmbench.schema.case import Case
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLE"]

TABLE = Table(
    name="gradient_accumulation",
    title="Gradient Accumulation Steps",
    columns=(("Model", "model"), ("Gradient Accumulation Steps", "accumulation_steps")),
    rows=tuple(
        Row(f"qwen-7b-chat-accumulation-{steps}", Case(model="qwen-7b-chat", accumulation_steps=steps))
        for steps in (1, 2, 4, 8, 16, 32, 64)
    ),
)
