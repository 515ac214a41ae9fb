"""
How much memory a case would take, and which cards have it: what is asked of an estimate, and what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from pytest_llmbench.schema.workload import parse_memory

__all__ = ["CARDS", "CONTEXT_BYTES", "Estimate", "Estimating", "bytes_for_tensors"]

_GIB = 2**30
CONTEXT_BYTES = 744 * 2**20
"""
What CUDA takes of a card for itself: `peak_footprint_bytes` less `peak_reserved_bytes`, the median of the rows in
`baselines/nvidia-h200`.
"""

_TOTAL_GIB = {"24GB": 23.64, "40GB": 39.39, "48GB": 44.39, "80GB": 79.15, "141GB": 139.80, "192GB": 178.35}
CARDS: Mapping[str, int] = {name: int(total * _GIB) - CONTEXT_BYTES for name, total in _TOTAL_GIB.items()}
"""
Bytes that a card has for tensors, by the size on its label.

Totals are the least that torch's messages name ("GPU 0 has a total capacity of 79.15 GiB") for an RTX 4090, A100 of
40 GB, L40S, A100 or H100 of 80 GB, H200 and B200; `CONTEXT_BYTES` are taken off.
"""
_NAMES = {
    "rtx3090": "24GB",
    "rtx4090": "24GB",
    "a100-40gb": "40GB",
    "l40": "48GB",
    "l40s": "48GB",
    "a100": "80GB",
    "a100-80gb": "80GB",
    "h100": "80GB",
    "h200": "141GB",
    "b200": "192GB",
}


class Estimating(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Estimate the memory of a case, and measure nothing."""

    length: Annotated[int, msgspec.Meta(ge=2)] | None = None
    """Tokens of every sample; None for samples as they are measured."""
    card_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """What a card has for tensors on which to look for the largest length and batch that fit; None for no such card."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a case would take of each GPU."""

    allocated_bytes: tuple[int, ...]
    reserved_bytes: tuple[int, ...]
    made_of: dict[str, int]
    """The peak of allocated memory on the fullest GPU, by what it is for; the sum is that peak."""
    fits: dict[str, bool]
    """By card of `CARDS`."""
    fits_card: bool | None = None
    """On the card that was named."""
    largest_length: int | None = None
    """The most tokens, rounded down, of which all samples may be on that card; None as `notes` says."""
    largest_batch: int | None = None
    """The most samples in a batch, all of `max_length`."""
    notes: dict[str, str] = {}
    """Why the largest `max_length` or `batch_size` is not known, or why nothing larger was tried."""


def bytes_for_tensors(card: str) -> int:
    """
    What a card has for tensors, by its name or by its size: `H100`, `80GB`, or `22.5GiB` for one of no usual size.

    Raises:
        ValueError: no such card, and no size.
    """
    plain = card.strip().lower().replace(" ", "").removeprefix("nvidia").lstrip("-")
    label = _NAMES.get(plain, plain.upper())
    if label in CARDS:
        return CARDS[label]
    try:
        found = parse_memory(card) - CONTEXT_BYTES
    except ValueError:
        raise ValueError(
            f"there is no card {card!r}; give {', '.join(CARDS)}, {', '.join(_NAMES)}, or a size as 22GiB"
        ) from None
    if found <= 0:
        raise ValueError(f"{card!r} is less than CUDA takes for itself, {CONTEXT_BYTES // 2**20} MiB")
    return found
