"""
torch's caching allocator for one GPU and one stream, by its rules and without a GPU: what it reserves for a trace.

The rules, with the default settings, are those of `c10/cuda/CUDACachingAllocator.cpp`: sizes are rounded
up to 512 bytes; up to 1 MiB comes from segments of 2 MiB, up to 10 MiB from segments of 20 MiB, what is larger from a
segment of its own size, rounded up to 2 MiB; the smallest free block that is large enough is taken, and split if
more than 1 MiB (of small ones 512 bytes) would be left; free neighbours within a segment merge; where the GPU is
full, free segments are given back.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from pytest_llmbench.schema.units import size as shown

__all__ = ["Allocator", "Block", "OutOfMemory"]

MIB = 2**20
_SMALL, _LARGE = MIB, 10 * MIB


class OutOfMemory(Exception):
    """More than the GPU has, though all that is free was given back."""


@dataclass(eq=False)
class Block:
    """A part of a segment."""

    size: int
    free: bool
    number: int
    """In the order in which blocks came to be."""
    small: bool
    before: Block | None = None
    after: Block | None = None

    @property
    def is_segment(self) -> bool:
        return self.before is None and self.after is None


class Allocator:
    """
    Args:
        limit: bytes that the GPU has for tensors; None for no end of them.
        index: of the GPU, by which it is named where its memory ends.

    Attributes:
        reserved: bytes taken from the GPU.
        peak_reserved: the most of them.
        peak_allocated: the most bytes of blocks in use, as rounded, since the peak was reset.
        most_allocated: the most since the beginning.
    """

    def __init__(self, limit: int | None = None, index: int = 0) -> None:
        self.reserved = self.peak_reserved = self.allocated = self.peak_allocated = 0
        self._most_allocated = 0
        self._limit = limit
        self._index = index
        self._count = 0
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        """By pool: (size, number, block), sorted."""

    def take(self, count_bytes: int) -> Block:
        """
        Memory for a tensor.

        Raises:
            OutOfMemory: the limit would be passed.
        """
        size = max(512, -(-count_bytes // 512) * 512)
        small = size <= _SMALL
        pool = self._free[small]
        at = bisect.bisect_left(pool, (size, -1))
        block = pool.pop(at)[2] if at < len(pool) else self._segment(size, small=small)
        if block.size - size >= 512 if small else block.size - size > _SMALL:
            self._split(block, size)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    @property
    def most_allocated(self) -> int:
        return max(self._most_allocated, self.peak_allocated)

    def reset_peak(self) -> None:
        """Begin another stretch."""
        self._most_allocated = self.most_allocated
        self.peak_allocated = self.allocated

    def give_back(self, block: Block) -> None:
        """A tensor is gone; its memory stays reserved."""
        self.allocated -= block.size
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._remove(neighbour)
                self._merge(block, neighbour)
        block.free = True
        bisect.insort(self._free[block.small], (block.size, block.number, block))

    def _segment(self, size: int, *, small: bool) -> Block:
        length = 2 * MIB if small else 20 * MIB if size < _LARGE else -(-size // (2 * MIB)) * 2 * MIB
        if self._limit is not None and self.reserved + length > self._limit:
            self._return_segments()
            if self.reserved + length > self._limit:
                raise OutOfMemory(
                    f"CUDA out of memory. Tried to allocate {shown(length)}. GPU {self._index} has a total capacity of "
                    f"{shown(self._limit)} of which {shown(self._limit - self.reserved)} is free; "
                    f"{shown(self.allocated)} is allocated."
                )
        self.reserved += length
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return self._block(length, small=small)

    def _block(self, size: int, *, small: bool) -> Block:
        self._count += 1
        return Block(size, True, self._count, small)

    def _split(self, block: Block, size: int) -> None:
        rest = self._block(block.size - size, small=block.small)
        block.size = size
        rest.before, rest.after = block, block.after
        if rest.after is not None:
            rest.after.before = rest
        block.after = rest
        bisect.insort(self._free[rest.small], (rest.size, rest.number, rest))

    def _merge(self, block: Block, neighbour: Block) -> None:
        block.size += neighbour.size
        if neighbour is block.before:
            block.before = neighbour.before
            if block.before is not None:
                block.before.after = block
        else:
            block.after = neighbour.after
            if block.after is not None:
                block.after.before = block

    def _remove(self, block: Block) -> None:
        pool = self._free[block.small]
        del pool[bisect.bisect_left(pool, (block.size, block.number))]

    def _return_segments(self) -> None:
        for small, pool in self._free.items():
            whole = [entry for entry in pool if entry[2].is_segment]
            self.reserved -= sum(size for size, _, _ in whole)
            self._free[small] = [entry for entry in pool if not entry[2].is_segment]
