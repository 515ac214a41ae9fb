"""
The published architectures as data: every size that decides what a training step computes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["ARCHITECTURES", "Architecture", "miniature"]


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of one decoder-only model, and the names of the linear layers that LoRA adapts."""

    name: str
    family: Literal["qwen"]
    """Which module of this package knows how the sizes fit together."""
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    """Width of one of the two branches of the gated MLP; the original configuration has their sum."""
    vocab_size: int
    max_positions: int
    rope_theta: float
    norm_eps: float
    default_targets: tuple[str, ...]
    """Leaf names of the query, key and value projections."""
    all_targets: tuple[str, ...]
    """Leaf names of every linear layer but the head."""


def _qwen(
    name: str,
    *,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    vocab_size: int,
    max_positions: int,
    rope_theta: float = 1e4,
) -> Architecture:
    return Architecture(
        name=name,
        family="qwen",
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        intermediate_size=intermediate_size,
        vocab_size=vocab_size,
        max_positions=max_positions,
        rope_theta=rope_theta,
        norm_eps=1e-6,
        default_targets=("c_attn",),
        all_targets=("c_attn", "c_proj", "w1", "w2"),
    )


_PUBLISHED = (
    _qwen(
        "qwen-1_8b-chat",
        hidden_size=2048,
        num_layers=24,
        num_heads=16,
        intermediate_size=5504,
        vocab_size=151_936,
        max_positions=8192,
    ),
    _qwen(
        "qwen-7b-chat",
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        intermediate_size=11_008,
        vocab_size=151_936,
        max_positions=8192,
    ),
    _qwen(
        "qwen-14b-chat",
        hidden_size=5120,
        num_layers=40,
        num_heads=40,
        intermediate_size=13_696,
        vocab_size=152_064,
        max_positions=2048,
    ),
    _qwen(
        "qwen-72b-chat",
        hidden_size=8192,
        num_layers=80,
        num_heads=64,
        intermediate_size=24_576,
        vocab_size=152_064,
        max_positions=32_768,
        rope_theta=1e6,
    ),
)

ARCHITECTURES = {architecture.name: architecture for architecture in _PUBLISHED}
"""By the names of `cases.MODELS`; a name that is missing here cannot be built yet."""


def miniature(architecture: Architecture) -> Architecture:
    """
    The same kind of model with two layers and small widths, for smoke scale.

    What is not a size (rotary base, epsilon, module names, heads per key-value head) stays.
    """
    num_heads = 4
    return msgspec.structs.replace(
        architecture,
        hidden_size=64,
        num_layers=2,
        num_heads=num_heads,
        num_kv_heads=max(1, num_heads * architecture.num_kv_heads // architecture.num_heads),
        intermediate_size=128,
        vocab_size=512,
    )
