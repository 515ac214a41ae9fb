"""
Which of torch's attention kernels a GPU would run, and their operators on tensors without content.

The order and the conditions are those of `aten/src/ATen/native/transformers/cuda/sdp_utils.cpp` for a Hopper GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Chosen", "workspace_bytes"]

_HALF = (torch.float16, torch.bfloat16)
_CUDNN_SIZE, _FLASH_SIZE = 128, 256
"""The largest heads that a kernel trains."""
_BIAS_ROW = 16
"""A row of a bias is padded to a multiple of so many numbers for the memory-efficient kernel."""
_ROWS = 128


class Chosen:
    """
    Takes the place of `torch.nn.functional.scaled_dot_product_attention`.

    Attributes:
        names: of the operators that ran.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __call__(  # noqa: PLR0917 - as torch has it
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        kernel = _kernel(query, key, value, attn_mask, is_causal=is_causal)
        self.names.add(f"_scaled_dot_product_{kernel}_attention" if kernel != "math" else _MATH)
        aten = torch.ops.aten
        if kernel == "math":
            found = aten._scaled_dot_product_attention_math(
                query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
            )
            return found[0]
        if enable_gqa and kernel == "efficient":
            key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], 1) for one in (key, value))
        if kernel == "flash":
            return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
        bias = _bias(attn_mask, query)
        trains = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
        if kernel == "cudnn":
            return aten._scaled_dot_product_cudnn_attention(
                query, key, value, bias, trains, dropout_p, is_causal, False, scale=scale
            )[0]
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, _padded(bias, query), trains, dropout_p, is_causal, scale=scale
        )[0]


_MATH = "_scaled_dot_product_attention_math"


def _kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, is_causal: bool) -> str:
    backends = torch.backends.cuda
    half = query.dtype in _HALF and query.dtype == key.dtype == value.dtype
    size = query.shape[-1]
    even = size % 8 == 0 and value.shape[-1] % 8 == 0
    both = mask is not None and is_causal
    if backends.cudnn_sdp_enabled() and half and even and max(size, value.shape[-1]) <= _CUDNN_SIZE and not both:
        return "cudnn"
    if backends.flash_sdp_enabled() and half and mask is None and size <= _FLASH_SIZE and size == value.shape[-1]:
        return "flash"
    if backends.mem_efficient_sdp_enabled() and not both:
        return "efficient"
    if backends.math_sdp_enabled():
        return "math"
    raise RuntimeError("No available kernel. Aborting execution.")


def _bias(mask: Tensor | None, query: Tensor) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(mask, query.new_zeros(()), query.new_full((), -torch.inf))


def _padded(bias: Tensor | None, query: Tensor) -> Tensor | None:
    if bias is None:
        return None
    length = bias.shape[-1]
    if length % _BIAS_ROW:
        bias = torch.nn.functional.pad(bias, (0, _BIAS_ROW - length % _BIAS_ROW))[..., :length]
    return bias.expand(query.shape[0], query.shape[1], query.shape[2], -1)


def workspace_bytes(operator: str, arguments: Sequence[Any]) -> list[int]:
    """What a kernel of torch's allocates for itself and gives back before it ends."""
    if operator == "aten::_scaled_dot_product_flash_attention_backward":
        query = arguments[1]
        batch, heads, length, size = query.shape
        rows = batch * heads * -(-length // _ROWS) * _ROWS
        return [4 * rows, 4 * rows * -(-size // 32) * 32]
    if operator == "aten::_scaled_dot_product_cudnn_attention_backward":
        query = arguments[1]
        batch, heads, length, size = query.shape
        return [4 * batch * heads * length * (size + 1)]
    return []
