"""
4-bit linear layers that have their sizes and no content: what bitsandbytes allocates, of today and of the published runs.

Weights are packed two to a byte, with a byte per 64 of them for a scale and four per 256 scales, and are multiplied
as a 16-bit copy that is made anew for every product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_llmbench.engine.quantization.backend import linear_places

__all__ = ["Packed4Bit", "as_published"]


class Packed4Bit:
    """In the place of `engine.quantization.bnb.Nf4`."""

    def prepare(self, model: Any) -> None:
        for place in linear_places(model):
            linear = place.linear
            place.put(_Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"))

    def store(self, module: nn.Module) -> None:
        if isinstance(module, _Linear):
            module.pack()


def as_published(model: nn.Module) -> None:
    """
    Turn a model of `Packed4Bit` into one of bitsandbytes 0.41.3 in a Trainer with bf16 autocast.

    - Its `MatMul4Bit.forward` in `bitsandbytes/autograd/_functions.py` kept the input of every layer in an attribute of
      the autograd node, which non-reentrant checkpointing does not see, so that they live until the backward pass.
    - Weights were dequantized to fp16 and then cast to bf16.
    - What is not quantized is fp16, the output of a layer too; autocast makes a bf16 copy of the head in each forward
      pass. Adapters are fp32.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
        elif parameter.is_floating_point():
            parameter.data = parameter.data.half()
    for name, module in model.named_modules():
        if isinstance(module, _Linear):
            module.published = True
        elif isinstance(module, nn.Linear):
            module.forward = _under_autocast(module, torch.float16 if "lora_B" in name else torch.bfloat16)


def _under_autocast(linear: nn.Linear, to: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda given: functional.linear(given.bfloat16(), linear.weight.bfloat16()).to(to)


class _Linear(nn.Linear):
    weight: Tensor
    published = False

    def pack(self) -> None:
        count, device = self.weight.numel(), self.weight.device
        self.unpacked = self.weight.shape
        self.weight = nn.Parameter(torch.empty(count // 2, 1, dtype=torch.uint8, device=device), requires_grad=False)
        self.register_buffer("scales", torch.empty(count // 64, dtype=torch.uint8, device=device))
        self.register_buffer("scales_of_scales", torch.empty(count // 64 // 256, device=device))

    def forward(self, given: Tensor) -> Tensor:
        result = _Product.apply(given.bfloat16(), self)
        if self.bias is not None:
            result = result + self.bias.to(result.dtype)
        return result.to(given.dtype).clone()  # as peft does for 4-bit layers

    def dequantized(self) -> Tensor:
        scales = self.scales.float()
        weight = self.weight.new_empty(self.unpacked, dtype=torch.float16 if self.published else torch.bfloat16)
        del scales
        return weight.bfloat16()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, layer: _Linear) -> Tensor:
        ctx.layer = layer
        if layer.published:
            ctx.given = given
        return functional.linear(given, layer.dequantized())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantized(), None
