"""
Floating-point operations of an operator, by torch's own formulas and those of packed weights.

A multiplication and an addition count as two. Attention counts as if no mask were there, as torch's counter does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

__all__ = ["flops_of"]

Shape = Sequence[int]
Formula = Callable[..., int]


def flops_of(operator: Any) -> Formula | None:
    """
    The formula of an operator; None for one that multiplies no matrices.

    It takes the operator's own arguments and, as `out_val`, what the operator returned.
    """
    return _OURS.get(operator.name().split(".")[0]) or flop_registry.get(operator.overloadpacket)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Forward pass over (batch, heads, length, size)."""
    return int(sdpa_flop_count(query.shape, _grouped(query, key), _grouped(query, value)))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, _grouped(query, key), _grouped(query, value)))


def _grouped(query: Any, key: Any) -> Shape:
    """Shape of keys or values with as many heads as the queries have."""
    batch, _, length, size = key.shape
    return (batch, query.shape[1], length, size)


def _heads_last(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Forward pass over (batch, length, heads, size), as flash-attn and xformers have it."""
    batch, length, heads, size = query.shape
    return 4 * batch * heads * length * key.shape[1] * size


def _heads_last_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return _heads_last(query, key, value) * 5 // 2


def _packed_heads(query: Any, key: Any, value: Any, starts: Any, key_starts: Any, *_: Any, **__: Any) -> int:
    """Forward pass over (tokens, heads, size) of samples that begin at *starts*."""
    _, heads, size = query.shape
    lengths, others = ([end - start for start, end in itertools.pairwise(one.tolist())] for one in (starts, key_starts))
    return 4 * heads * size * sum(map(math.prod, zip(lengths, others, strict=True)))


def _packed_heads_backward(grad: Any, query: Any, key: Any, value: Any, *arguments: Any, **named: Any) -> int:
    starts = [one for one in arguments if getattr(one, "dtype", None) == torch.int32][:2]
    return _packed_heads(query, key, value, *starts) * 5 // 2


def _rows_by_weight(rows: Any, weight: Any, *_: Any, **__: Any) -> int:
    """A product of rows (..., inputs) and a weight (outputs, inputs) of 8 bits."""
    return 2 * rows.numel() * int(weight.shape[0])


def _by_output(inputs: Any, *_: Any, out_val: Any, **__: Any) -> int:
    """A product of rows (..., inputs) and a packed weight, by what it returned (..., outputs)."""
    return 2 * inputs.numel() * int(out_val.shape[-1])


_KERNELS = ("flash", "efficient", "cudnn")
_OURS: Mapping[str, Formula] = {
    # torch's own refuse groups of heads that share keys, before torch 2.12.
    **{f"aten::_scaled_dot_product_{kernel}_attention": _attention for kernel in _KERNELS},
    **{f"aten::_scaled_dot_product_{kernel}_attention_backward": _attention_backward for kernel in _KERNELS},
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
    "flash_attn::_flash_attn_forward": _heads_last,
    "flash_attn::_flash_attn_backward": _heads_last_backward,
    "flash_attn::_flash_attn_varlen_forward": _packed_heads,
    "flash_attn::_flash_attn_varlen_backward": _packed_heads_backward,
    "xformers_flash::flash_fwd": _heads_last,
    "xformers_flash::flash_bwd": _heads_last_backward,
    "bitsandbytes::gemm_4bit": _by_output,
    "bitsandbytes::int8_linear_matmul": _rows_by_weight,
    "bitsandbytes::gemv_4bit": _by_output,
}
