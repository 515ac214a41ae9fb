"""Flash attention and gradient checkpointing, each on and off."""

from __future__ import annotations

from pytest_llmbench.schema.case import Attention, Case
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLE"]

# With it off, the page's memory fits one bf16 or fp32 attention matrix a layer: torch's math kernel, not eager with two.
_ATTENTIONS: dict[str, Attention] = {"flash": "flash", "no-flash": "sdpa-math"}
_CHECKPOINTING = {"checkpointing": True, "no-checkpointing": False}

TABLE = Table(
    name="flash_attention",
    title="Use Flash Attn & Gradient Checkpointing",
    columns=(("Model", "model"), ("Attention", "attention"), ("Gradient Checkpointing", "gradient_checkpointing")),
    rows=tuple(
        Row(
            f"qwen-7b-chat-{attention_label}-{checkpointing_label}",
            Case(model="qwen-7b-chat", attention=attention, gradient_checkpointing=checkpointing),
        )
        for attention_label, attention in _ATTENTIONS.items()
        for checkpointing_label, checkpointing in _CHECKPOINTING.items()
    ),
)
