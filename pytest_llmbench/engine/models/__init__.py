"""
The models of the published page with random weights: constructed without memory, then drawn on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedModel

from pytest_llmbench.cases import Case
from pytest_llmbench.engine.attention import check_available, effective_attention, implementation
from pytest_llmbench.engine.models.architecture import ARCHITECTURES, Architecture, miniature
from pytest_llmbench.engine.models.qwen import qwen
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.engine.quantization import Quantizer, quantizer
from pytest_llmbench.workload import Scale, Workload

__all__ = ["ModelUnavailable", "architecture_of", "build_model", "enable_checkpointing"]

WEIGHT_STD = 0.02
WEIGHT_SEED = 0

_BUILDERS: dict[str, Callable[[Architecture, str], PreTrainedModel]] = {"qwen": qwen}
"""By `Architecture.family`."""


class ModelUnavailable(Unavailable):
    """A published model that cannot be built."""


def architecture_of(model: str, scale: Scale) -> Architecture:
    """
    The sizes of a model of `cases.MODELS`; at smoke scale those of its miniature.

    Raises:
        ModelUnavailable: the model is not built in yet.
    """
    architecture = ARCHITECTURES.get(model)
    if architecture is None:
        raise ModelUnavailable(f"model {model} is not built in yet")
    return architecture if scale == "full" else miniature(architecture)


def build_model(
    case: Case, workload: Workload, device: torch.device | str, dtype: torch.dtype = torch.bfloat16
) -> PreTrainedModel:
    """
    The case's model with random weights on *device*, quantized as the case says.

    Weights are drawn on the device itself, the same ones every time; on the `meta` device they
    have shapes and no memory. Attention is `effective_attention(case, workload)`.

    Raises:
        ModelUnavailable: the model is not built in yet.
        AttentionUnavailable: the attention cannot run here.
        QuantizationUnavailable: the quantization cannot run here.
    """
    device = torch.device(device)
    architecture = architecture_of(case.model, workload.scale)
    attention = effective_attention(case, workload)
    check_available(attention, device)
    backend = quantizer(case.quantization)
    # Buffers (the rotary frequencies) are small and computed, so they are real from the start.
    with init_empty_weights(include_buffers=False):
        model: Any = _BUILDERS[architecture.family](architecture, implementation(attention))
    backend.prepare(model)
    if device.type == "meta":
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        return model
    _materialise(model, backend, device, dtype)
    return model


def enable_checkpointing(model: nn.Module) -> None:
    """
    Recompute each block in the backward pass, non-reentrant.

    The embeddings' output requires a gradient from then on, as fine-tuning scripts have it.
    """
    # Renamed in transformers 5; the old name warns there.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.enable_input_require_grads()


def _materialise(model: nn.Module, backend: Quantizer, device: torch.device, dtype: torch.dtype) -> None:
    """Give every parameter memory and values, and move the buffers, one module at a time."""
    generator = torch.Generator(device).manual_seed(WEIGHT_SEED)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            drawn = torch.empty(parameter.shape, dtype=dtype, device=device)
            if drawn.ndim > 1:
                drawn.normal_(std=WEIGHT_STD, generator=generator)
            else:  # a bias, or the weight of a norm
                drawn.fill_(0.0 if name == "bias" else 1.0)
            setattr(module, name, nn.Parameter(drawn))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
        backend.store(module)
