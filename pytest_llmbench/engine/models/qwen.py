"""
Qwen (the first generation): fused query-key-value projection with bias, no other bias, gated MLP.

Module names are those of the original. Norm, rotary embedding, attention, masks, checkpointing
and loss are transformers' own, so that an upgrade of transformers is measured and not hidden.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import PreTrainedModel, Qwen2Config
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from pytest_llmbench.engine.models.architecture import Architecture

__all__ = ["QwenForCausalLM", "qwen"]

try:
    from transformers.modeling_layers import GradientCheckpointingLayer
except ImportError:  # transformers before 4.52: its models checkpoint in their loop over the layers

    class GradientCheckpointingLayer(nn.Module):  # type: ignore[no-redef]
        """A layer that `gradient_checkpointing_enable` tells to recompute itself in the backward pass."""

        gradient_checkpointing = False
        _gradient_checkpointing_func: Any

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if self.gradient_checkpointing and self.training:
                return self._gradient_checkpointing_func(partial(super().__call__, **kwargs), *args)
            return super().__call__(*args, **kwargs)


try:
    from transformers.masking_utils import create_causal_mask
except ImportError:  # transformers before 4.53
    from transformers.modeling_attn_mask_utils import (
        _prepare_4d_causal_attention_mask,
        _prepare_4d_causal_attention_mask_for_sdpa,
    )

    def create_causal_mask(config: Any, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """The mask that the configured attention takes; None where causal attention needs none."""
        if config._attn_implementation == "flash_attention_2":
            return attention_mask
        eager = config._attn_implementation == "eager"
        prepare = _prepare_4d_causal_attention_mask if eager else _prepare_4d_causal_attention_mask_for_sdpa
        return prepare(attention_mask, inputs_embeds.shape[:2], inputs_embeds, 0)


_MASK_ARGUMENTS = tuple(
    name
    for name, parameter in inspect.signature(create_causal_mask).parameters.items()
    if parameter.default is inspect.Parameter.empty
)
"""What this transformers demands; the names of the embeddings and of the absent cache have changed over time."""


def qwen(architecture: Architecture, attention_implementation: str) -> QwenForCausalLM:
    """
    Args:
        architecture: one of the qwen family, or a miniature of one.
        attention_implementation: as transformers names it.
    """
    config = Qwen2Config(
        vocab_size=architecture.vocab_size,
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=architecture.num_heads,
        num_key_value_heads=architecture.num_kv_heads,
        max_position_embeddings=architecture.max_positions,
        rope_theta=architecture.rope_theta,
        rms_norm_eps=architecture.norm_eps,
        use_cache=False,
        tie_word_embeddings=False,
        attn_implementation=attention_implementation,
    )
    return QwenForCausalLM(config)


class QwenAttention(nn.Module):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        # The attention functions of transformers read these from the module.
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.num_key_value_groups = 1
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.c_attn = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        position_ids: Tensor,
    ) -> Tensor:
        batch_size, length, hidden_size = hidden_states.shape
        query, key, value = (
            projected.view(batch_size, length, -1, self.head_dim).transpose(1, 2)
            for projected in self.c_attn(hidden_states).split(hidden_size, dim=-1)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        name = self.config._attn_implementation
        attend = eager_attention_forward if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        # transformers' models pass the positions on, and its flash attention looks at them for packed samples.
        attended, _ = attend(
            self, query, key, value, attention_mask, scaling=self.head_dim**-0.5, position_ids=position_ids
        )
        return self.c_proj(attended.reshape(batch_size, length, hidden_size))


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

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        position_ids: Tensor,
    ) -> Tensor:
        hidden_states = hidden_states + self.attn(
            self.ln_1(hidden_states), position_embeddings, attention_mask, position_ids
        )
        return hidden_states + self.mlp(self.ln_2(hidden_states))


class QwenTransformer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList(QwenBlock(config, index) for index in range(config.num_hidden_layers))
        self.ln_f = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = Qwen2RotaryEmbedding(config=config)

    def forward(self, input_ids: Tensor | None, attention_mask: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        hidden_states = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        position_ids = torch.arange(hidden_states.shape[1], device=hidden_states.device).unsqueeze(0)
        mask = _causal_mask(self.config, hidden_states, attention_mask)
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for block in self.h:
            hidden_states = block(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=mask,
                position_ids=position_ids,
            )
        return self.ln_f(hidden_states)


class QwenForCausalLM(PreTrainedModel, GenerationMixin):
    """
    The model with its head, for training only: it keeps no cache and does not generate.

    Without an attention mask, flash and sdpa attention get none either and run their causal kernels.
    """

    config_class = Qwen2Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["QwenBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True  # the same in transformers before 4.54

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transformer = QwenTransformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.transformer.wte = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """
        Args:
            input_ids: [batch, length], or None if *inputs_embeds* is given.
            attention_mask: [batch, length], 0 on padding; None if nothing is padded.
            inputs_embeds: [batch, length, hidden].
            labels: [batch, length], -100 where there is no loss; the loss shifts them itself.
            kwargs: handed to the loss, which ignores what it does not know.

        Returns:
            The mean loss and the logits [batch, length, vocabulary] of every position.
        """
        logits = self.lm_head(self.transformer(input_ids, attention_mask, inputs_embeds))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits)


def _causal_mask(config: Any, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    known = {
        "config": config,
        "inputs_embeds": inputs_embeds,
        "input_embeds": inputs_embeds,
        "attention_mask": attention_mask,
        "cache": None,
        "past_key_values": None,
        "cache_position": torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device),
    }
    return create_causal_mask(**{name: known[name] for name in _MASK_ARGUMENTS})
