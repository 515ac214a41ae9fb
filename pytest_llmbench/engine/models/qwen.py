"""
Qwen (the first generation): fused query-key-value projection with bias, no other bias, gated MLP.

Module names are those of the original; norm and rotary embedding are transformers' own.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding, apply_rotary_pos_emb

from pytest_llmbench.engine.models.architecture import Architecture, config_arguments
from pytest_llmbench.engine.models.decoder import (
    DecoderAttention,
    DecoderForCausalLM,
    GradientCheckpointingLayer,
    causal_mask,
    run_layers,
)

__all__ = ["QwenForCausalLM", "qwen"]


def qwen(architecture: Architecture, attention_implementation: str) -> QwenForCausalLM:
    """
    Args:
        architecture: one of the qwen family, or a miniature of one.
        attention_implementation: as transformers names it.
    """
    return QwenForCausalLM(Qwen2Config(**config_arguments(architecture, attention_implementation)))


class QwenAttention(DecoderAttention):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.c_attn = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        position_ids: Tensor,
    ) -> Tensor:
        query, key, value = map(self.heads, self.c_attn(hidden_states).split(hidden_states.shape[-1], dim=-1))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        return self.c_proj(self.attend(query, key, value, attention_mask, position_ids))


class QwenMLP(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.c_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.c_proj(self.w1(hidden_states) * silu(self.w2(hidden_states)))


class QwenBlock(GradientCheckpointingLayer):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attn = QwenAttention(config, layer_idx)
        self.ln_2 = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = QwenMLP(config)

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        hidden_states = hidden_states + self.attn(self.ln_1(hidden_states), **context)
        return hidden_states + self.mlp(self.ln_2(hidden_states))


class QwenTransformer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList(QwenBlock(config, index) for index in range(config.num_hidden_layers))
        self.ln_f = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = Qwen2RotaryEmbedding(config=config)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor:
        mask = causal_mask(self.config, inputs_embeds, attention_mask)
        return self.ln_f(run_layers(self.h, inputs_embeds, mask, self.rotary_emb))


class QwenForCausalLM(DecoderForCausalLM):
    config_class = Qwen2Config
    base_model_prefix = "transformer"
    embedding_name = "transformer.wte"
    head_name = "lm_head"
    _no_split_modules: ClassVar[list[str]] = ["QwenBlock"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transformer = QwenTransformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def decode(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.transformer(inputs_embeds, attention_mask)
