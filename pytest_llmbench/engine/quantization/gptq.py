"""
GPTQ: groups of 128 weights, symmetric, activation order off, through gptqmodel or the auto-gptq before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pytest_llmbench.engine.quantization.backend import (
    LinearPlace,
    QuantizationUnavailable,
    linear_places,
    load_library,
)
from pytest_llmbench.engine.quantization.packing import WORD_BITS, pack, repeated

__all__ = ["Gptq"]

GROUP_SIZE = 128

LayerMaker = Callable[[nn.Linear, int, int], Any]
"""The library's own layer, of a linear layer's sizes, bits, and group size, its buffers on the device."""


class Gptq:
    """
    The drawn weights, rounded and packed by hand into the layers of the library that peft trains over.

    Layers compute in the model's dtype, bf16, as transformers would load them; the published runs
    had fp16. Every pass dequantizes whole weights with torch's operators and multiplies in 16 bits.
    A layer narrower than a group (in miniatures) is one group.

    Args:
        bits: 4 or 8.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._zero_point = 2 ** (bits - 1)
        self._places: dict[nn.Module, LinearPlace] = {}
        if _library() == "gptqmodel":
            self._make = _gptqmodel_layer()
        else:
            self._make = _auto_gptq_layer(bits)
            self._zero_point -= 1  # the first version of the format stores one less

    def prepare(self, model: Any) -> None:
        from transformers import GPTQConfig

        self._places = {place.linear: place for place in linear_places(model)}
        for place in self._places.values():
            _check_fits(place)
        model.quantization_method = "gptq"
        model.config.quantization_config = GPTQConfig(
            bits=self._bits, group_size=GROUP_SIZE, desc_act=False, sym=True, use_exllama=False
        )

    def store(self, module: nn.Module) -> None:
        place = self._places.pop(module, None)
        if place is not None:
            place.put(self._quantized(place.linear))
            place.linear.to("meta")  # who walks over the model's modules still holds it, and must not hold its weights

    @torch.no_grad()
    def _quantized(self, linear: nn.Linear) -> nn.Module:
        group_size = _group_size(linear)
        with torch.device(linear.weight.device):
            layer = self._make(linear, self._bits, group_size)
        packed = pack(linear.weight, self._bits, group_size)
        layer.qweight = packed.codes
        layer.qzeros.fill_(repeated(self._zero_point, self._bits))
        layer.scales = packed.scales
        if linear.bias is not None:
            layer.bias = linear.bias.detach()
        layer.post_init()
        return layer


def _group_size(linear: nn.Linear) -> int:
    return min(GROUP_SIZE, linear.in_features)


def _check_fits(place: LinearPlace) -> None:
    inputs, outputs = place.linear.in_features, place.linear.out_features
    if inputs % _group_size(place.linear) or inputs % WORD_BITS or outputs % WORD_BITS:
        raise QuantizationUnavailable(
            f"layer {place.name} has {inputs} inputs and {outputs} outputs; "
            f"GPTQ packs groups of {GROUP_SIZE} inputs and words of {WORD_BITS} outputs"
        )


def _library() -> str:
    """
    Raises:
        QuantizationUnavailable: none is installed that peft takes.
    """
    from peft import import_utils

    # peft knew auto-gptq alone, then both, then gptqmodel alone.
    known = {name: getattr(import_utils, f"is_{name}_available", None) for name in ("gptqmodel", "auto_gptq")}
    for name, is_available in known.items():
        try:
            if is_available is not None and is_available():
                return name
        except ImportError as error:
            raise QuantizationUnavailable(f"peft refuses {name}: {error}") from error
    if known["gptqmodel"] is None:
        raise QuantizationUnavailable(
            "auto-gptq is not installed, and this peft knows no other layers of GPTQ: pip install auto-gptq"
        )
    raise QuantizationUnavailable("gptqmodel is not installed: pip install 'pytest-llmbench[gptq]'")


def _gptqmodel_layer() -> LayerMaker:
    """
    Layers that run everywhere and have no kernels of their own; gptqmodel compiles their dequantization.

    What `backend="auto_trainable"` would choose on a GPU, its Triton layer, trains by the same code.
    """
    torch_linear = load_library("gptqmodel.nn_modules.qlinear.torch", "gptq").TorchLinear

    def make(linear: nn.Linear, bits: int, group_size: int) -> Any:
        layer = torch_linear(
            bits=bits,
            group_size=group_size,
            sym=True,
            desc_act=False,
            in_features=linear.in_features,
            out_features=linear.out_features,
            bias=linear.bias is not None,
        )
        layer.qzero_format(format=2)
        # Compiling takes longer than a miniature trains, and needs a C++ compiler on the CPU.
        layer.optimized = linear.weight.device.type == "cpu"
        return layer

    return make


def _auto_gptq_layer(bits: int) -> LayerMaker:
    """The layer that peft looks for when exllama is off, its CUDA kernel off too: that one has no backward pass."""
    quant_linear = load_library("auto_gptq.utils.import_utils", "gptq").dynamically_import_QuantLinear(
        use_triton=False,
        desc_act=False,
        group_size=GROUP_SIZE,
        bits=bits,
        disable_exllama=True,
        disable_exllamav2=True,
    )

    def make(linear: nn.Linear, bits: int, group_size: int) -> Any:
        bias = linear.bias is not None
        return quant_linear(bits, group_size, linear.in_features, linear.out_features, bias, trainable=True)

    return make
