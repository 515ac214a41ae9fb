"""Weights as they are: nothing is quantized."""

from __future__ import annotations

from torch import nn

__all__ = ["Bf16"]


class Bf16:
    def prepare(self, model: nn.Module) -> None:
        """Every linear layer stays what it is."""

    def store(self, module: nn.Module) -> None:
        """The weights stay as they were drawn."""
