"""
The arithmetic of GPTQ's storage: weights rounded by groups, several of them packed into a 32-bit word.

Pure functions of tensors; they know no library.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["WORD_BITS", "Packed", "pack", "repeated"]

WORD_BITS = 32


class Packed(NamedTuple):
    """A weight is `scale * (code - 2 ** (bits - 1))`."""

    codes: Tensor
    """[inputs * bits / 32, outputs] int32: codes of consecutive inputs from the lowest bits of a word up."""
    scales: Tensor
    """[groups, outputs], in the dtype that the weights had."""


def pack(weight: Tensor, bits: int, group_size: int) -> Packed:
    """
    Round *weight* [outputs, inputs] to the nearest code, symmetrically around zero.

    GPTQ proper would choose among the codes with the help of samples; the storage is the same.

    Args:
        bits: of one code, 4 or 8.
        group_size: consecutive inputs that share a scale; divides their number.
    """
    outputs, inputs = weight.shape
    per_word = WORD_BITS // bits
    grouped = weight.to(torch.float32, copy=True).view(outputs, inputs // group_size, group_size)
    scales = 2 * grouped.abs().amax(-1, keepdim=True) / (2**bits - 1)
    scales = scales.clamp_min_(torch.finfo(weight.dtype).tiny).to(weight.dtype)
    # In place: a layer of a large model takes a gigabyte in float32.
    codes = grouped.div_(scales.float()).round_().add_(2 ** (bits - 1)).clamp_(0, 2**bits - 1)
    by_lane = codes.view(outputs, inputs).t().to(torch.int32).view(inputs // per_word, per_word, outputs)
    words = torch.zeros((inputs // per_word, outputs), dtype=torch.int32, device=weight.device)
    for lane in range(per_word):
        words |= by_lane[:, lane] << (bits * lane)
    return Packed(words, scales.squeeze(-1).t().contiguous())


def repeated(code: int, bits: int) -> int:
    """The word, as a signed number, in which every code is *code*."""
    word = code * ((2**WORD_BITS - 1) // (2**bits - 1))
    return word - 2**WORD_BITS if word >= 2 ** (WORD_BITS - 1) else word
