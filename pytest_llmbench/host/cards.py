"""
What kinds of GPUs can do at most, by their makers' data sheets.

Figures are of dense matrices of bf16 accumulated as fp32, without sparsity.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CARDS", "Card", "card_named"]

_TERA, _GIGA = 10**12, 10**9


class Card(NamedTuple):
    """One kind of GPU."""

    name: str
    """Part of the name that NVML gives, without "NVIDIA"."""
    flops_per_second: float
    bytes_per_second: float
    """Of its memory."""


CARDS = (
    Card("B200", 2250 * _TERA, 8000 * _GIGA),
    Card("H200", 989.4 * _TERA, 4800 * _GIGA),
    Card("H100 80GB HBM3", 989.4 * _TERA, 3350 * _GIGA),
    Card("H100 PCIe", 756 * _TERA, 2000 * _GIGA),
    Card("A100-SXM4-80GB", 312 * _TERA, 2039 * _GIGA),
    Card("A100-SXM4-40GB", 312 * _TERA, 1555 * _GIGA),
    Card("L40S", 362 * _TERA, 864 * _GIGA),
    Card("L4", 121 * _TERA, 300 * _GIGA),
)
"""Longer names stand before those that they begin with."""


def card_named(device: str) -> Card | None:
    """The kind of GPU of this name; None for one that is not listed."""
    return next((card for card in CARDS if device.removeprefix("NVIDIA ").startswith(card.name)), None)
