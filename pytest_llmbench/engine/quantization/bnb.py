"""
bitsandbytes: 4-bit NormalFloat and LLM.int8(), with the settings that transformers would load a model with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from pytest_llmbench.engine.quantization.backend import QuantizationUnavailable, linear_places, load_library

__all__ = ["BLOCK_SIZE", "Int8", "Nf4"]

BLOCK_SIZE = 64
COMPUTE_DTYPE = torch.bfloat16
OUTLIER_THRESHOLD = 6.0
"""Input features with a larger value are multiplied in 16 bits; transformers' default, and the paper's."""


class Nf4:
    """
    Blocks of 64 weights share a scale, the scales are quantized to 8 bits (double quantization).

    Weights are dequantized to bf16 in every forward and backward pass.
    """

    def __init__(self) -> None:
        library = _load()
        self._nn, self._functional = library.nn, library.functional

    def prepare(self, model: Any) -> None:
        make = partial(self._nn.Linear4bit, compute_dtype=COMPUTE_DTYPE, compress_statistics=True, quant_type="nf4")
        _replace(model, make)
        model.is_loaded_in_4bit = True

    def store(self, module: nn.Module) -> None:
        if not isinstance(module, self._nn.Linear4bit):
            return
        weight: Any = module.weight
        parameter = self._nn.Params4bit(
            weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=module
        )
        module.weight = parameter.to(weight.device)  # which quantizes


class Int8:
    """
    A scale per output row and per token; 8-bit products, but for the outliers among the inputs.

    bitsandbytes multiplies in 8 bits on the GPU, after a cast of the inputs to fp16. On the CPU it
    dequantizes the weights for training.
    """

    def __init__(self) -> None:
        library = _load()
        self._nn = library.nn
        self._quantize = library.functional.int8_vectorwise_quant

    def prepare(self, model: Any) -> None:
        _replace(model, partial(self._nn.Linear8bitLt, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD))
        model.is_loaded_in_8bit = True

    def store(self, module: nn.Module) -> None:
        if not isinstance(module, self._nn.Linear8bitLt):
            return
        weight: Any = module.weight
        # Moving the weights to the device, as users do, quantizes only those that come from the CPU.
        rows, row_maxima, _ = self._quantize(weight.data.to(torch.float16))
        module.weight = self._nn.Int8Params(rows, requires_grad=False, has_fp16_weights=False, CB=rows, SCB=row_maxima)


def _replace(model: Any, make: Callable[..., nn.Module]) -> None:
    for place in linear_places(model):
        linear = place.linear
        place.put(make(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"))


def _load() -> Any:
    library = load_library("bitsandbytes", "bnb")
    # Without its CUDA library it can be imported all the same, and fails when it is first used.
    error = getattr(library.cextension.lib, "error_msg", None)
    if torch.cuda.is_available() and isinstance(error, str):
        raise QuantizationUnavailable(f"bitsandbytes is installed and its CUDA library does not load: {error}")
    return library
