"""
How frozen weights are stored: one module per backend, chosen by the name that a case uses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pytest_llmbench.engine.quantization.backend import (
    Bf16,
    QuantizationUnavailable,
    Quantizer,
    kept_environment,
    logical_elements,
)
from pytest_llmbench.engine.quantization.bnb import Int8, Nf4
from pytest_llmbench.engine.quantization.gptq import Gptq
from pytest_llmbench.schema import extensions
from pytest_llmbench.schema.case import Quantization

__all__ = ["QuantizationUnavailable", "Quantizer", "kept_environment", "logical_elements", "quantizer"]

_BACKENDS: dict[str, Callable[[], Quantizer]] = {
    "bf16": Bf16,
    "bnb-nf4": Nf4,
    "bnb-int8": Int8,
    "gptq-int4": partial(Gptq, 4),
    "gptq-int8": partial(Gptq, 8),
}


def quantizer(quantization: Quantization) -> Quantizer:
    """
    The backend, its library imported: in the measuring process only, for some initialise CUDA.

    One of another package is what its entry point gives when it is called: a `Quantizer`.

    Raises:
        QuantizationUnavailable: with the reason that users see.
    """
    if quantization in _BACKENDS:
        return _BACKENDS[quantization]()
    try:
        backend: Quantizer = extensions.load("quantizations", quantization)()
    except extensions.ExtensionError as error:
        raise QuantizationUnavailable(f"quantization {quantization}: {error}") from error
    return backend
