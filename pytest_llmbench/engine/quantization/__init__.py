"""
How frozen weights are stored: one module per backend, chosen by the name that a case uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from pytest_llmbench.cases import Quantization
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.engine.quantization.bf16 import Bf16

__all__ = ["QuantizationUnavailable", "Quantizer", "quantizer"]


class QuantizationUnavailable(Unavailable):
    """The backend is not installed, does not work here, or is not built in yet."""


class Quantizer(Protocol):
    """
    Two hooks of building a model.

    A model is quantized layer by layer as its weights come to the device, so that a model whose
    bf16 weights would not fit can be built.
    """

    def prepare(self, model: nn.Module) -> None:
        """Put quantized layers in place of the linear ones (but the head) while *model* has no storage yet."""

    def store(self, module: nn.Module) -> None:
        """Quantize the own weights of *module*, which have just been drawn on the device."""


_BACKENDS: dict[Quantization, Callable[[], Quantizer]] = {"bf16": Bf16}


def quantizer(quantization: Quantization) -> Quantizer:
    """
    Raises:
        QuantizationUnavailable: with the reason that users see.
    """
    backend = _BACKENDS.get(quantization)
    if backend is None:
        raise QuantizationUnavailable(f"quantization {quantization} is not built in yet")
    return backend()
