"""
How long the samples are: the published distribution, and the choice of the samples to measure.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal

import msgspec

from pytest_llmbench.schema.case import CaseError
from pytest_llmbench.schema.workload import Scale

__all__ = ["PUBLISHED", "LengthSet", "admissible", "choose"]

SMOKE_DIVISOR = 64
"""At smoke scale a sample is this many times shorter."""
MIN_TOKENS = 2
"""The least that has something to predict."""
GROWTH_RANKS = (1 / 2, 3 / 4, 7 / 8)
"""
Where in the sorted lengths the longest so far stands before the longest of all comes.

In a random order each new longest falls evenly among the lengths above the one before it, so it
halves, on average, what is left.
"""


class LengthSet(msgspec.Struct, frozen=True, kw_only=True):
    """
    The lengths, in tokens, of the samples of a dataset.

    Raises:
        ValueError: no sample, or one with fewer than two tokens.
    """

    name: str
    lengths: tuple[int, ...]
    num_long_rows: int | None = None
    """How many rows are read when max_length is above 2048; None for all of them."""

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < MIN_TOKENS:
            raise ValueError(f"length set {self.name!r} needs samples of at least {MIN_TOKENS} tokens")


def admissible(length_set: LengthSet, max_length: int, scale: Scale) -> tuple[int, ...]:
    """
    The lengths that a run with *max_length* trains on, shortest first: longer samples are dropped, not cut.

    Raises:
        CaseError: every sample is longer.
    """
    rows = sorted(length_set.lengths)
    if max_length > 2048 and length_set.num_long_rows is not None:
        rows = _quantiles(rows, length_set.num_long_rows)
    kept = [length for length in rows if length <= max_length]
    if not kept:
        raise CaseError(
            f"max_length={max_length}: every sample of {length_set.name!r} is longer; the shortest has {rows[0]} tokens"
        )
    if scale == "smoke":
        kept = [max(MIN_TOKENS, length // SMOKE_DIVISOR) for length in kept]
    return tuple(kept)


def choose(
    length_set: LengthSet,
    max_length: int,
    scale: Scale,
    *,
    count: int | Literal["full"],
    batch_size: int = 1,
    seed: int,
) -> tuple[int, ...]:
    """
    The lengths to measure: *count* equally spaced quantiles of the admissible ones, the last of
    which gives way to the longest. They are shuffled, but so that the longest so far grows as it
    does in a random order on average (`GROWTH_RANKS`): where it grows decides how much memory the
    allocator reserves, and in a plain shuffle that would be left to *seed* and *count*.

    More than there are repeats some; `full` takes each once.

    Raises:
        CaseError: as `admissible`.
    """
    kept = admissible(length_set, max_length, scale)
    chosen = list(kept) if count == "full" else [*_quantiles(kept, count)[:-1], kept[-1]]
    return _rising(chosen, batch_size, random.Random(seed))


def _rising(ordered: Sequence[int], batch_size: int, generator: random.Random) -> tuple[int, ...]:
    """Each step lasts a sixteenth of the samples and at least a batch, so that batches grow as single samples do."""
    count = len(ordered)
    lasting = max(batch_size, count // 16)
    ranks = sorted({int(rank * count) for rank in GROWTH_RANKS} | {count - 1})
    rest = [length for rank, length in enumerate(ordered) if rank not in ranks]
    generator.shuffle(rest)
    rising: list[int] = []
    for longest_so_far in (ordered[rank] for rank in ranks[:-1]):
        followers = [length for length in rest if length <= longest_so_far][: lasting - 1]
        for length in followers:
            rest.remove(length)
        rising += [longest_so_far, *followers]
    return (*rising, ordered[-1], *rest)


def _quantiles(ordered: Sequence[int], count: int) -> list[int]:
    """Equally spaced in rank, half a space from either end."""
    return [ordered[(2 * position + 1) * len(ordered) // (2 * count)] for position in range(count)]


class _LogNormal(msgspec.Struct, frozen=True):
    weight: float
    median: float
    log_sigma: float


_NUM_ROWS = 4959
_SHORTEST, _LONGEST = 91, 19548
_MIXTURE = (
    _LogNormal(0.2643, 452.1, 0.5436),
    _LogNormal(0.1804, 2187.8, 0.2639),
    _LogNormal(0.5553, 4378.2, 0.4506),
)
"""Fitted to all that is known of the published dataset, of which only statistics are."""


def _published_lengths() -> tuple[int, ...]:
    """Equally spaced quantiles of the mixture, and the two lengths that are known exactly as ends."""
    support = range(_SHORTEST, _LONGEST + 1)
    mass = [0.0] * len(support)
    for part in _MIXTURE:
        density = [math.exp(-0.5 * (math.log(k / part.median) / part.log_sigma) ** 2) / k for k in support]
        share = part.weight / sum(density)
        mass = [total + share * value for total, value in zip(mass, density, strict=True)]
    step = sum(mass) / _NUM_ROWS
    lengths: list[int] = []
    cumulated = 0.0
    for length, value in zip(support, mass, strict=True):
        cumulated += value
        while len(lengths) < _NUM_ROWS and (len(lengths) + 0.5) * step <= cumulated:
            lengths.append(length)
    return (_SHORTEST, *lengths[1:-1], _LONGEST)


PUBLISHED = LengthSet(name="published", lengths=_published_lengths(), num_long_rows=1000)
"""The dataset of the published page, by qwen's tokenizer."""
