"""
Baichuan2: fused query-key-value projection without bias, a head of normalised rows; positions are
rotated in the small model and a bias on the scores (ALiBi) in the large one.

Module names are those of the original; norm, MLP and rotary embedding are those of transformers' Llama.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from pytest_llmbench.engine.models.architecture import Architecture, config_arguments
from pytest_llmbench.engine.models.decoder import (
    DecoderAttention,
    DecoderForCausalLM,
    GradientCheckpointingLayer,
    causal_mask,
    run_layers,
)

__all__ = ["BaichuanForCausalLM", "alibi_mask", "alibi_slopes", "baichuan"]


def baichuan(architecture: Architecture, attention_implementation: str) -> BaichuanForCausalLM:
    """
    Args:
        architecture: one of the baichuan family, or a miniature of one; without a rotary base it has ALiBi.
        attention_implementation: as transformers names it; with ALiBi one that takes a mask of floats.
    """
    config = LlamaConfig(**config_arguments(architecture, attention_implementation), alibi=architecture.alibi)
    return BaichuanForCausalLM(config)


def alibi_slopes(num_heads: int) -> list[float]:
    """How much each head's scores fall per token of distance: a geometric series, as published with ALiBi."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    # Other head counts take every other slope of the series for twice as many.
    between = [2 ** (-4 * (head + 1) / power) for head in range(0, 2 * power, 2)]
    return slopes + between[: num_heads - power]


def alibi_mask(num_heads: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores: the bias [1, heads, length, length], minus infinity on later tokens."""
    positions = torch.arange(length, dtype=torch.float32, device=device)
    distance = (positions - positions.unsqueeze(1)).masked_fill(positions > positions.unsqueeze(1), -math.inf)
    mask = torch.empty(1, num_heads, length, length, dtype=dtype, device=device)
    # Head by head, since all heads in fp32 would take twice the memory of the mask itself.
    for head, slope in enumerate(alibi_slopes(num_heads)):
        mask[0, head] = slope * distance
    return mask


class BaichuanAttention(DecoderAttention):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None,
        attention_mask: Tensor | None,
        position_ids: Tensor,
    ) -> Tensor:
        query, key, value = map(self.heads, self.W_pack(hidden_states).chunk(3, dim=-1))
        if position_embeddings is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        return self.o_proj(self.attend(query, key, value, attention_mask, position_ids))


class BaichuanBlock(GradientCheckpointingLayer):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = BaichuanAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **context)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class BaichuanModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(BaichuanBlock(config, index) for index in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = None if config.alibi else LlamaRotaryEmbedding(config=config)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor:
        mask = self._mask(inputs_embeds, attention_mask)
        return self.norm(run_layers(self.layers, inputs_embeds, mask, self.rotary_emb))

    def _mask(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        if not self.config.alibi:
            return causal_mask(self.config, inputs_embeds, attention_mask)
        # Made anew for each batch, as lengths hardly repeat.
        mask = alibi_mask(
            self.config.num_attention_heads, inputs_embeds.shape[1], inputs_embeds.dtype, inputs_embeds.device
        )
        if attention_mask is None:
            return mask
        return mask.masked_fill(attention_mask[:, None, None, :] == 0, -math.inf)


class NormHead(nn.Module):
    """A head that normalises the rows of its weight [vocabulary, hidden], anew in each forward pass."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return linear(hidden_states, normalize(self.weight))


class BaichuanForCausalLM(DecoderForCausalLM):
    config_class = LlamaConfig
    base_model_prefix = "model"
    embedding_name = "model.embed_tokens"
    head_name = "lm_head"
    _no_split_modules: ClassVar[list[str]] = ["BaichuanBlock"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = BaichuanModel(config)
        self.lm_head = NormHead(config.hidden_size, config.vocab_size)
        self.post_init()

    def decode(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.model(inputs_embeds, attention_mask)
