"""
Quantized layers of their libraries whose packed weights have a shape and no content.

The libraries' own functions say which tensors there are; their parameters are subclasses of tensors, which one without
content cannot become, so that a plain one carries what they would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from pytest_llmbench.engine.quantization import Quantizer
from pytest_llmbench.engine.quantization.bnb import BLOCK_SIZE, Int8, Nf4
from pytest_llmbench.engine.quantization.gptq import Gptq

__all__ = ["backends", "implied", "workspace_bytes"]


def backends(
    without_content: Callable[[], AbstractContextManager[None]],
) -> Mapping[str, Callable[[], Quantizer]]:
    """
    What builds quantized layers, by the names that a case uses.

    Args:
        without_content: within it, integers have no content either, as packed weights are integers.
    """
    return {
        "bnb-nf4": _ShapesNf4,
        "bnb-int8": _ShapesInt8,
        "gptq-int4": lambda: _ShapesGptq(4, without_content),
        "gptq-int8": lambda: _ShapesGptq(8, without_content),
    }


class _ShapesNf4(Nf4):
    def prepare(self, model: Any) -> None:
        with _disable_current_modes():  # until they are stored, layers are on the meta device
            super().prepare(model)

    def store(self, module: nn.Module) -> None:
        if not isinstance(module, self._nn.Linear4bit):
            return
        packed, state = self._functional.quantize_4bit(
            module.weight.data, blocksize=BLOCK_SIZE, compress_statistics=True, quant_type="nf4"
        )
        module.weight = _carrying(
            packed,
            quant_state=state,
            blocksize=BLOCK_SIZE,
            compress_statistics=True,
            quant_type="nf4",
            quant_storage=packed.dtype,
            bnb_quantized=True,
        )
        module.quant_state = state


class _ShapesInt8(Int8):
    def prepare(self, model: Any) -> None:
        with _disable_current_modes():
            super().prepare(model)

    def store(self, module: nn.Module) -> None:
        if not isinstance(module, self._nn.Linear8bitLt):
            return
        rows, row_maxima, _ = self._quantize(module.weight.data.to(torch.float16))
        module.weight = _carrying(rows, CB=rows, SCB=row_maxima, has_fp16_weights=False)


class _ShapesGptq(Gptq):
    def __init__(self, bits: int, without_content: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(bits)
        self._without_content = without_content

    def _quantized(self, linear: nn.Linear) -> nn.Module:
        with self._without_content():
            return super()._quantized(linear)


def _carrying(values: Tensor, **attributes: Any) -> nn.Parameter:
    parameter = nn.Parameter(values, requires_grad=False)
    parameter.__dict__.update(attributes)
    return parameter


def implied(operator: str, arguments: Sequence[Any]) -> Any:
    """
    What an operator returns whose shapes hang on values; None for one that this does not know.

    LLM.int8() looks for outliers among its inputs: there are taken to be none, as random weights give none.
    """
    if operator != "bitsandbytes::int8_vectorwise_quant" or len(arguments) < 2 or not arguments[1]:
        return None
    rows = arguments[0]
    scales = rows.new_empty(rows.numel() // rows.shape[-1], dtype=torch.float32)
    return torch.empty_like(rows, dtype=torch.int8), scales, rows.new_empty(0, dtype=torch.int64)


def workspace_bytes(operator: str, arguments: Sequence[Any]) -> list[int]:
    """What a kernel of bitsandbytes takes for itself: 4-bit weights are multiplied as a 16-bit copy on a Hopper GPU."""
    if operator != "bitsandbytes::gemm_4bit":
        return []
    outputs, inputs = arguments[2]
    count = outputs * inputs
    return [4 * count // arguments[4], 2 * count]
