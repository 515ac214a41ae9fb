"""An attention, as transformers calls it. Imported in measuring processes only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["plain"]


def plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """
    Causal attention in three lines. Samples are padded on the right, so that no mask of padding is needed.

    Args:
        module: one layer's attention.
        query: [batch, heads, length, head_dim].
        key: [batch, key-value heads, length, head_dim], and so is *value*.
        attention_mask: not looked at.
        scaling: of the scores; None for head_dim ** -0.5.

    Returns:
        [batch, length, heads, head_dim], and no weights.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1, torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None
