"""
Models constructed without memory, then given weights on the device: those of the published page, and the user's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_llmbench.engine.attention import (
    check_available,
    check_imitated,
    check_takes_bias,
    effective_attention,
    implementation,
    pin_kernel,
)
from pytest_llmbench.engine.models import extension, hub
from pytest_llmbench.engine.models.architecture import ARCHITECTURES, Architecture, miniature
from pytest_llmbench.engine.models.baichuan import baichuan
from pytest_llmbench.engine.models.chatglm import chatglm
from pytest_llmbench.engine.models.hub import ModelUnavailable
from pytest_llmbench.engine.models.llama import llama, mistral
from pytest_llmbench.engine.models.qwen import qwen
from pytest_llmbench.engine.placement import Placement, balanced, device_of, free_bytes, place
from pytest_llmbench.engine.quantization import Quantizer, quantizer
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.extensions import is_extension
from pytest_llmbench.schema.workload import Scale, Workload

__all__ = ["ModelUnavailable", "architecture_of", "build_model", "draw", "enable_checkpointing"]

WEIGHT_STD = 0.02
WEIGHT_SEED = 0

_BUILDERS: dict[str, Callable[[Architecture, str], PreTrainedModel]] = {
    "qwen": qwen,
    "chatglm": chatglm,
    "llama": llama,
    "mistral": mistral,
    "baichuan": baichuan,
    "hub": hub.hub,
    "extension": extension.extension,
}
"""Builders by `Architecture.family`."""


def architecture_of(model: str, scale: Scale) -> Architecture:
    """
    The sizes of the model of a case, which another package may offer; at smoke scale those of its miniature.

    Raises:
        ModelUnavailable: a model of the user's own cannot be found or built.
    """
    if is_extension(model):
        architecture = extension.find_model(model).architecture
    else:
        architecture = ARCHITECTURES.get(model) or hub.read_architecture(model)
    return architecture if scale == "full" else miniature(architecture)


def build_model(
    case: Case, workload: Workload, device: torch.device | str, dtype: torch.dtype = torch.bfloat16
) -> PreTrainedModel:
    """
    The case's model with its weights on *device*, quantized as the case says.

    With several GPUs the layers are split over the first `case.num_gpus` that this process sees, and
    *device* has to be the first. On the CPU there is one device, whatever the case says.

    Random weights are drawn on the device itself, the same ones every time, and miniatures have
    no others. Each GPU draws its own, so that another split gives a layer other values. On the
    `meta` device weights have shapes and no memory. Attention is `effective_attention(case, workload)`.

    Raises:
        ModelUnavailable: a model of the user's own cannot be found or built.
        AttentionUnavailable: the attention cannot run here.
        QuantizationUnavailable: the quantization cannot run here.
        Unavailable: the layers of the model cannot be told, to split them.
        DoesNotFit: the weights exceed the memory of the GPUs together.
    """
    device = torch.device(device)
    architecture = architecture_of(case.model, workload.scale)
    _check_fits(case, workload, architecture)
    attention = effective_attention(case, workload)
    if workload.device == "fake":
        check_imitated(attention)
    elif device.type != "meta":  # nothing runs there
        check_available(attention, device)
    if architecture.alibi:
        check_takes_bias(attention, architecture.name)
    backend = quantizer(case.quantization)
    # Buffers (the rotary frequencies) are small and computed, so they are real from the start.
    with init_empty_weights(include_buffers=False):
        model: Any = _BUILDERS[architecture.family](architecture, implementation(attention))
    pin_kernel(model, attention)
    backend.prepare(model)
    placement: Placement = {"": device}
    if device.type == "meta":
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    else:
        pretrained = case.weights == "pretrained" and workload.scale == "full"
        weights = hub.checkpoint(case.model, dtype) if pretrained else None
        if case.num_gpus > 1 and device.type == "cuda":
            placement = _over_gpus(model, case, dtype)
        _materialise(model, weights, backend, placement, dtype)
    model.tie_weights()  # a head may be the embedding, and is apart from it until here
    if len(placement) > 1:
        place(model, placement)
    return model


def draw(values: Tensor, name: str, generator: torch.Generator) -> None:
    """Fill a parameter called *name* within its module as every model without stored weights begins."""
    if values.ndim > 1:
        values.normal_(std=WEIGHT_STD, generator=generator)
    else:  # a bias, or the weight of a norm
        values.fill_(0.0 if name == "bias" else 1.0)


def enable_checkpointing(model: nn.Module) -> None:
    """
    Recompute each block in the backward pass, non-reentrant.

    The embeddings' output requires a gradient from then on, as fine-tuning scripts have it.
    """
    # Renamed in transformers 5; the old name warns there.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.enable_input_require_grads()


def _check_fits(case: Case, workload: Workload, architecture: Architecture) -> None:
    """Refuse what a model of the user's own may have wrong; the published models have it right."""
    if architecture.family != "hub":
        return
    positions = architecture.max_positions
    if workload.scale == "full" and positions is not None and case.max_length > positions:
        raise ModelUnavailable(
            f"model {case.model!r} has {positions} positions, and max_length={case.max_length} lets longer samples "
            f"through; use max_length={positions}, or raise max_position_embeddings in its configuration"
        )
    if case.tuner == "lora" and case.lora_targets == "default" and not architecture.default_targets:
        raise ModelUnavailable(
            f"model {case.model!r}: none of its linear layers ({', '.join(architecture.all_targets)}) is known as a "
            "query, key or value projection; use lora_targets='all'"
        )


def _over_gpus(model: Any, case: Case, dtype: torch.dtype) -> Placement:
    model.tie_weights()  # what is tied has to stay together
    devices = [torch.device("cuda", index) for index in range(case.num_gpus)]
    return balanced(model, devices, free_bytes(devices), dtype, case.quantization)


def _materialise(
    model: nn.Module, weights: dict[str, Tensor] | None, backend: Quantizer, placement: Placement, dtype: torch.dtype
) -> None:
    """Give every parameter memory and values, and move the buffers, one module at a time."""
    devices = dict.fromkeys(placement.values())
    generators = {
        device: torch.Generator(device).manual_seed(WEIGHT_SEED + index) for index, device in enumerate(devices)
    }
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{prefix}.{name}".lstrip(".")
            device = device_of(full_name, placement)
            values = torch.empty(parameter.shape, dtype=dtype, device=device)
            if weights is not None:
                values.copy_(weights[full_name])
            else:
                draw(values, name, generators[device])
            setattr(module, name, nn.Parameter(values))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device_of(f"{prefix}.{name}".lstrip("."), placement)))
        backend.store(module)
