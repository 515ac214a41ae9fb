"""
What the hand-built decoders share: attention, the pass over the layers, and the model around them.

Attention, masks, checkpointing and loss are transformers' own, so that an upgrade of transformers
is measured and not hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

__all__ = ["DecoderAttention", "DecoderForCausalLM", "GradientCheckpointingLayer", "causal_mask", "run_layers"]

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
        name = config._attn_implementation
        if name == "flash_attention_2":
            return attention_mask
        if name not in ("eager", "sdpa"):  # as transformers has it since: an attention of one's own knows what it masks
            return None
        prepare = _prepare_4d_causal_attention_mask if name == "eager" else _prepare_4d_causal_attention_mask_for_sdpa
        return prepare(attention_mask, inputs_embeds.shape[:2], inputs_embeds, 0)


_MASK_ARGUMENTS = tuple(
    name
    for name, parameter in inspect.signature(create_causal_mask).parameters.items()
    if parameter.default is inspect.Parameter.empty
)
"""What this transformers demands; the names of the embeddings and of the absent cache have changed over time."""


def causal_mask(config: Any, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    """
    Args:
        config: names the attention, which decides the form of the mask.
        inputs_embeds: [batch, length, hidden].
        attention_mask: [batch, length], 0 on padding; None if nothing is padded.

    Returns:
        What the attention takes: None, [batch, length], or [batch, 1, length, length].
    """
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


class DecoderAttention(nn.Module):
    """Causal attention through transformers' interface; a subclass projects into heads and out of them."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        # The attention functions of transformers read these from the module.
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.head_dim = config.hidden_size // config.num_attention_heads

    def heads(self, projected: Tensor) -> Tensor:
        """[batch, length, heads * head_dim] to [batch, heads, length, head_dim]."""
        return projected.view(*projected.shape[:2], -1, self.head_dim).transpose(1, 2)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, position_ids: Tensor
    ) -> Tensor:
        """
        Args:
            query: [batch, heads, length, head_dim].
            key: [batch, key-value heads, length, head_dim], and so is *value*.
            attention_mask: what `causal_mask` gave.
            position_ids: [1, length].

        Returns:
            [batch, length, hidden].
        """
        name = self.config._attn_implementation
        function = eager_attention_forward if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        # transformers' models pass the positions on, and its flash attention looks at them for packed samples.
        attended, _ = function(
            self, query, key, value, attention_mask, scaling=self.head_dim**-0.5, position_ids=position_ids
        )
        return attended.flatten(2)


def run_layers(
    layers: Iterable[nn.Module], hidden_states: Tensor, attention_mask: Tensor | None, rotary: nn.Module | None
) -> Tensor:
    """
    Pass the embeddings [batch, length, hidden] through the layers.

    Args:
        layers: each takes the hidden states and, by name, the rotary cosines and sines, the mask
            and the positions.
        hidden_states: the embeddings.
        attention_mask: what `causal_mask` gave.
        rotary: None if the mask tells the positions.
    """
    position_ids = torch.arange(hidden_states.shape[1], device=hidden_states.device).unsqueeze(0)
    position_embeddings = None if rotary is None else rotary(hidden_states, position_ids)
    for layer in layers:
        hidden_states = layer(
            hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
    return hidden_states


class DecoderForCausalLM(PreTrainedModel, GenerationMixin):
    """
    A decoder with its head, for training only: it keeps no cache and does not generate.

    Without an attention mask, flash and sdpa attention get none either and run their causal kernels.
    """

    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True  # the same in transformers before 4.54
    embedding_name: ClassVar[str]
    """Where the original has its token embedding."""
    head_name: ClassVar[str]

    def decode(self, inputs_embeds: Tensor, attention_mask: Tensor | None) -> Tensor:
        """From the embeddings to what the head takes, both [batch, length, hidden]."""
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Module:
        return self.get_submodule(self.embedding_name)

    def set_input_embeddings(self, value: nn.Module) -> None:
        self._replace(self.embedding_name, value)

    def get_output_embeddings(self) -> nn.Module:
        return self.get_submodule(self.head_name)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self._replace(self.head_name, new_embeddings)

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
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        logits = self.get_output_embeddings()(self.decode(inputs_embeds, attention_mask))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, leaf = name.rpartition(".")
        setattr(self.get_submodule(parent), leaf, module)
