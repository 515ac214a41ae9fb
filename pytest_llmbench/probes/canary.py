"""
A canary: the same matrix product and the same copy after every case, which tell a slower GPU from slower libraries.

It runs last, once nothing of the case is measured any more and its memory is free again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch

__all__ = ["Sung", "sing"]

_SIDE = 4096
_PRODUCTS = 200
_COPY_BYTES = 2**28
_COPIES = 200
_BLOCKS = 5


class Sung(NamedTuple):
    """What one GPU reached, the median of a few blocks after one that does not count."""

    matmul_flops_per_second: float
    """bf16; 2 n^3 operations for a product of n x n matrices."""
    copy_bytes_per_second: float
    """Bytes read and written, within the GPU's own memory."""


def sing(index: int) -> Sung:
    """
    Takes a fraction of a second, and 0.6 GiB of the memory meanwhile.

    Raises:
        torch.cuda.OutOfMemoryError: others use that memory.
    """
    with torch.cuda.device(index):
        one, other = (torch.randn(_SIDE, _SIDE, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        product = torch.empty_like(one)
        seconds = _seconds(lambda: torch.mm(one, other, out=product), _PRODUCTS)
        source = torch.zeros(_COPY_BYTES, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        copied = _seconds(lambda: target.copy_(source), _COPIES)
    return Sung(2 * _SIDE**3 / seconds, 2 * _COPY_BYTES / copied)


def _seconds(do: Callable[[], object], count: int) -> float:
    """What one of them takes."""
    blocks = []
    for _ in range(_BLOCKS + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count // _BLOCKS):
            do()
        end.record()
        end.synchronize()
        blocks.append(begin.elapsed_time(end) / 1000 / (count // _BLOCKS))
    return statistics.median(blocks[1:])
