"""
ChatGLM3: few key-value heads, half of each head rotated in interleaved pairs, fused projections.

Module names are those of the original, its [length, batch, hidden] layout is not; norm and rotary
embedding are those of transformers' GLM, which descends from it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import GlmConfig
from transformers.models.glm.modeling_glm import GlmRMSNorm, GlmRotaryEmbedding, apply_rotary_pos_emb

from pytest_llmbench.engine.models.architecture import Architecture, config_arguments
from pytest_llmbench.engine.models.decoder import (
    DecoderAttention,
    DecoderForCausalLM,
    GradientCheckpointingLayer,
    causal_mask,
    run_layers,
)

__all__ = ["ChatGlmForCausalLM", "chatglm"]


def chatglm(architecture: Architecture, attention_implementation: str) -> ChatGlmForCausalLM:
    """
    Args:
        architecture: one of the chatglm family, or a miniature of one.
        attention_implementation: as transformers names it.
    """
    config = GlmConfig(
        **config_arguments(architecture, attention_implementation),
        head_dim=architecture.hidden_size // architecture.num_heads,
        partial_rotary_factor=0.5,
        pad_token_id=None,
    )
    return ChatGlmForCausalLM(config)


class ChatGlmAttention(DecoderAttention):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        kv_size = config.num_key_value_heads * self.head_dim
        self._sizes = (config.hidden_size, kv_size, kv_size)
        self.query_key_value = nn.Linear(config.hidden_size, sum(self._sizes))
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        position_ids: Tensor,
    ) -> Tensor:
        query, key, value = map(self.heads, self.query_key_value(hidden_states).split(self._sizes, dim=-1))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        return self.dense(self.attend(query, key, value, attention_mask, position_ids))


class ChatGlmMLP(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = self.dense_h_to_4h(hidden_states).chunk(2, dim=-1)
        return self.dense_4h_to_h(silu(gate) * up)


class ChatGlmBlock(GradientCheckpointingLayer):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = GlmRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attention = ChatGlmAttention(config, layer_idx)
        self.post_attention_layernorm = GlmRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = ChatGlmMLP(config)

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        hidden_states = hidden_states + self.self_attention(self.input_layernorm(hidden_states), **context)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class ChatGlmEmbedding(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)


class ChatGlmEncoder(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ChatGlmBlock(config, index) for index in range(config.num_hidden_layers))
        self.final_layernorm = GlmRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, inputs_embeds: Tensor, mask: Tensor | None, rotary: nn.Module) -> Tensor:
        return self.final_layernorm(run_layers(self.layers, inputs_embeds, mask, rotary))


class ChatGlmTransformer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embedding = ChatGlmEmbedding(config)
        self.rotary_pos_emb = GlmRotaryEmbedding(config=config)
        self.encoder = ChatGlmEncoder(config)
        self.output_layer = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor:
        mask = causal_mask(self.config, inputs_embeds, attention_mask)
        return self.encoder(inputs_embeds, mask, self.rotary_pos_emb)


class ChatGlmForCausalLM(DecoderForCausalLM):
    config_class = GlmConfig
    base_model_prefix = "transformer"
    embedding_name = "transformer.embedding.word_embeddings"
    head_name = "transformer.output_layer"
    _no_split_modules: ClassVar[list[str]] = ["ChatGlmBlock"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transformer = ChatGlmTransformer(config)
        self.post_init()

    def decode(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.transformer(inputs_embeds, attention_mask)
