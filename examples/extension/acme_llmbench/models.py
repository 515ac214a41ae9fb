"""A model: sizes, and what builds it from them. Imported in measuring processes only."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from pytest_llmbench.engine.models.architecture import Architecture
from pytest_llmbench.engine.models.extension import OfferedModel

__all__ = ["twin"]


def build(sizes: Architecture, attention: str) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        vocab_size=sizes.vocab_size,
        attn_implementation=attention,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


twin = OfferedModel(
    Architecture(
        name="acme:twin",
        family="extension",
        hidden_size=2048,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        intermediate_size=8192,
        vocab_size=128_256,
        default_targets=("q_proj", "k_proj", "v_proj"),
        all_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ),
    build,
)
