"""
What really ran, read off the built model and the profiled step rather than off the request.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from pytest_llmbench.engine.attention import is_fallback, observed_attention
from pytest_llmbench.engine.loop import AnyTraining
from pytest_llmbench.engine.placement import describe
from pytest_llmbench.schema.case import Attention

__all__ = ["attention_fallback", "describe_parts"]


def describe_parts(training: AnyTraining) -> dict[str, str]:
    """
    The linear class under the adapters, the optimizer class, the dtypes of the parameters, and which layers
    are on which GPU if they are split.
    """
    parts: dict[str, str] = {}
    if training.optimizer is not None:
        parts["optimizer"] = type(_innermost(training.optimizer)).__name__
    if training.model is None:
        return parts
    linear = _adapted_linear(training.model)
    if linear is not None:
        parts["linear"] = f"{type(linear).__module__.partition('.')[0]}.{type(linear).__name__}"
    trained = {parameter.dtype for parameter in training.model.parameters() if parameter.requires_grad}
    frozen = {parameter.dtype for parameter in training.model.parameters() if not parameter.requires_grad}
    parts["trained_dtype"] = _names(trained)
    if frozen:
        parts["frozen_dtype"] = _names(frozen)
    if (placement := describe(training.model)) is not None:
        parts["placement"] = placement
    return parts


def attention_fallback(requested: Attention, names: Iterable[str]) -> tuple[str | None, str | None]:
    """
    Which attention the kernels and operators in *names* belong to, and a sentence if it is another
    than *requested*.
    """
    observed = observed_attention(names)
    if observed is None or not is_fallback(requested, observed):
        return observed, None
    return observed, f"asked for {requested} attention, but {observed} ran"


def _innermost(optimizer: object) -> object:
    """The optimizer that computes, within those of accelerate, DeepSpeed and others that wrap it as `optimizer`."""
    seen = {id(optimizer)}
    while (inner := getattr(optimizer, "optimizer", None)) is not None and id(inner) not in seen:
        seen.add(id(inner))
        optimizer = inner
    return optimizer


def _adapted_linear(model: nn.Module) -> nn.Module | None:
    """The layer under the first adapter; without adapters the first linear layer."""
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, nn.Module):
            return base
    return next((module for module in model.modules() if isinstance(module, nn.Linear)), None)


def _names(dtypes: set[torch.dtype]) -> str:
    return "+".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
