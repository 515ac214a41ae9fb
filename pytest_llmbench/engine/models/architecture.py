"""
The published architectures as data: every size that decides what a training step computes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from pytest_llmbench.engine.lengths import SMOKE_DIVISOR

__all__ = ["ARCHITECTURES", "Architecture", "config_arguments", "miniature"]


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of one decoder-only model, and the names of the linear layers that LoRA adapts."""

    name: str
    family: Literal["qwen", "chatglm", "llama", "mistral", "baichuan", "hub", "extension"]
    """Which builder of this package knows how the sizes fit together; `extension` is one of another package."""
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    """Width of one of the two branches of the gated MLP; some original configurations have their sum."""
    vocab_size: int
    max_positions: int | None = None
    """None where only the model's own configuration says it."""
    rope_theta: float | None = None
    """Base of the rotary embedding; None where there is none, or where only the configuration says it."""
    norm_eps: float | None = None
    """None where only the configuration says it."""
    sliding_window: int | None = None
    """How many tokens back attention sees, itself included; None for all."""
    default_targets: tuple[str, ...]
    """Leaf names of the query, key and value projections."""
    all_targets: tuple[str, ...]
    """Leaf names of every linear layer but the head."""

    @property
    def alibi(self) -> bool:
        """Whether a bias on the attention scores tells the positions."""
        return self.family == "baichuan" and self.rope_theta is None


_QWEN_7B = Architecture(
    name="qwen-7b-chat",
    family="qwen",
    hidden_size=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    intermediate_size=11_008,
    vocab_size=151_936,
    max_positions=8192,
    rope_theta=1e4,
    norm_eps=1e-6,
    default_targets=("c_attn",),
    all_targets=("c_attn", "c_proj", "w1", "w2"),
)
_QWEN_1_8B = replace(
    _QWEN_7B,
    name="qwen-1_8b-chat",
    hidden_size=2048,
    num_layers=24,
    num_heads=16,
    num_kv_heads=16,
    intermediate_size=5504,
)
_QWEN_14B = replace(
    _QWEN_7B,
    name="qwen-14b-chat",
    hidden_size=5120,
    num_layers=40,
    num_heads=40,
    num_kv_heads=40,
    intermediate_size=13_696,
    vocab_size=152_064,
    max_positions=2048,
)
_QWEN_72B = replace(
    _QWEN_14B,
    name="qwen-72b-chat",
    hidden_size=8192,
    num_layers=80,
    num_heads=64,
    num_kv_heads=64,
    intermediate_size=24_576,
    max_positions=32_768,
    rope_theta=1e6,
)
_CHATGLM3_6B = Architecture(
    name="chatglm3-6b",
    family="chatglm",
    hidden_size=4096,
    num_layers=28,
    num_heads=32,
    num_kv_heads=2,
    intermediate_size=13_696,
    vocab_size=65_024,
    max_positions=8192,
    rope_theta=1e4,
    norm_eps=1e-5,
    default_targets=("query_key_value",),
    all_targets=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
)
_YI_6B = Architecture(
    name="yi-6b-chat",
    family="llama",
    hidden_size=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=4,
    intermediate_size=11_008,
    vocab_size=64_000,
    max_positions=4096,
    rope_theta=5e6,
    norm_eps=1e-5,
    default_targets=("q_proj", "k_proj", "v_proj"),
    all_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
_YI_34B = replace(
    _YI_6B,
    name="yi-34b-chat",
    hidden_size=7168,
    num_layers=60,
    num_heads=56,
    num_kv_heads=8,
    intermediate_size=20_480,
)
_ZEPHYR_7B = replace(
    _YI_6B,
    name="openbuddy-zephyr-7b-chat",
    family="mistral",
    num_kv_heads=8,
    intermediate_size=14_336,
    vocab_size=36_608,
    max_positions=32_768,
    rope_theta=1e4,
    sliding_window=4096,
)
_BAICHUAN2_7B = Architecture(
    name="baichuan2-7b-chat",
    family="baichuan",
    hidden_size=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    intermediate_size=11_008,
    vocab_size=125_696,
    max_positions=4096,
    rope_theta=1e4,
    norm_eps=1e-6,
    default_targets=("W_pack",),
    all_targets=("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
_BAICHUAN2_13B = replace(
    _BAICHUAN2_7B,
    name="baichuan2-13b-chat",
    hidden_size=5120,
    num_layers=40,
    num_heads=40,
    num_kv_heads=40,
    intermediate_size=13_696,
    rope_theta=None,
)

ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        _QWEN_1_8B,
        _QWEN_7B,
        _QWEN_14B,
        _QWEN_72B,
        _CHATGLM3_6B,
        _YI_6B,
        _YI_34B,
        _ZEPHYR_7B,
        _BAICHUAN2_7B,
        _BAICHUAN2_13B,
    )
}
"""By the names of `case.MODELS`."""


def miniature(architecture: Architecture) -> Architecture:
    """
    The same kind of model with two layers and small widths, for smoke scale.

    What is not a size (rotary base, epsilon, module names, query heads per key-value head) stays;
    a sliding window shrinks as much as the samples do.
    """
    group = architecture.num_heads // architecture.num_kv_heads
    num_kv_heads = max(1, 4 // group)
    window = architecture.sliding_window
    return replace(
        architecture,
        hidden_size=16 * group * num_kv_heads,
        num_layers=2,
        num_heads=group * num_kv_heads,
        num_kv_heads=num_kv_heads,
        intermediate_size=128,
        vocab_size=512,
        sliding_window=None if window is None else window // SMOKE_DIVISOR,
    )


def config_arguments(architecture: Architecture, attention_implementation: str) -> dict[str, Any]:
    """What the configurations of transformers' decoder-only models call these sizes; for training, so without a cache."""
    arguments = {
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "max_position_embeddings": architecture.max_positions,
        "rms_norm_eps": architecture.norm_eps,
        "use_cache": False,
        "tie_word_embeddings": False,
        "attn_implementation": attention_implementation,
    }
    if architecture.rope_theta is not None:
        arguments["rope_theta"] = architecture.rope_theta
    return arguments
