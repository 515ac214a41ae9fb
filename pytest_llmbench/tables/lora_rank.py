"""How many LoRA parameters, and on which layers."""

from __future__ import annotations

from pytest_llmbench.schema.case import Case, LoraTargets
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLE"]

_RANKS_AND_TARGETS: tuple[tuple[int, LoraTargets], ...] = ((2, "default"), (8, "default"), (64, "default"), (8, "all"))

TABLE = Table(
    name="lora_rank",
    title="LoRA Rank & LoRA Target Modules",
    columns=(("Model", "model"), ("LoRA Rank", "lora_rank"), ("LoRA Target Modules", "lora_targets")),
    rows=tuple(
        Row(
            f"qwen-7b-chat-rank-{rank}-{targets}",
            Case(model="qwen-7b-chat", lora_rank=rank, lora_targets=targets),
        )
        for rank, targets in _RANKS_AND_TARGETS
    ),
)
