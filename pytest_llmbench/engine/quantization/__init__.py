"""
How frozen weights are stored: one module per backend, chosen by the name that a case uses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pytest_llmbench.cases import Quantization
from pytest_llmbench.engine.quantization.backend import (
    QuantizationUnavailable,
    Quantizer,
    kept_environment,
    logical_elements,
)
from pytest_llmbench.engine.quantization.bf16 import Bf16
from pytest_llmbench.engine.quantization.bnb import Int8, Nf4
from pytest_llmbench.engine.quantization.gptq import Gptq

__all__ = ["QuantizationUnavailable", "Quantizer", "kept_environment", "logical_elements", "quantizer"]

_BACKENDS: dict[Quantization, Callable[[], Quantizer]] = {
    "bf16": Bf16,
    "bnb-nf4": Nf4,
    "bnb-int8": Int8,
    "gptq-int4": partial(Gptq, 4),
    "gptq-int8": partial(Gptq, 8),
}


def quantizer(quantization: Quantization) -> Quantizer:
    """
    The backend, its library imported: in the measuring process only, for some initialise CUDA.

    Raises:
        QuantizationUnavailable: with the reason that users see.
    """
    return _BACKENDS[quantization]()
