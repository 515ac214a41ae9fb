"""
What is trained: LoRA adapters on a frozen model, or every parameter.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from pytest_llmbench.engine.models.architecture import Architecture
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.engine.quantization import kept_environment, logical_elements
from pytest_llmbench.schema.case import Case

__all__ = ["attach", "count_parameters"]

LORA_ALPHA = 32
LORA_DROPOUT = 0.05


def attach(model: Any, case: Case, architecture: Architecture) -> Any:
    """
    The model in training mode, with exactly what the case trains requiring a gradient.

    Adapters have the model's own dtype, also where the weights under them are quantized: nothing
    is trained in fp32. Their first values come from torch's global generator of the first device,
    and peft moves each adapter to the device of the layer under it.

    Returns:
        The model itself for `full`, peft's model around it for `lora`.

    Raises:
        Unavailable: peft cannot adapt the layers that the case names.
    """
    if case.tuner == "full":
        return model.requires_grad_(True).train()
    from peft import LoraConfig, get_peft_model

    targets = architecture.default_targets if case.lora_targets == "default" else architecture.all_targets
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=case.lora_rank,
        lora_alpha=LORA_ALPHA,
        lora_dropout=LORA_DROPOUT,
        bias="none",
        target_modules=list(targets),
    )
    # Without the device peft draws the adapters on the CPU and moves them. Whatever the weights are, it
    # imports gptqmodel where that is installed.
    with torch.device(model.device), kept_environment(), warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for it by the old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        try:
            adapted: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
        except ValueError as error:  # of layers that it cannot adapt, as some experts are
            raise Unavailable(f"model {case.model!r} cannot be adapted by peft: {error}") from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(model.dtype)
    return adapted.train()


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable parameters and all of them, adapters included, quantized weights counted as they were before."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trained, logical_elements(model)
