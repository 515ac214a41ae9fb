"""LoRA on frozen weights of 16, 8 and 4 bits."""

from __future__ import annotations

from pytest_llmbench.schema.case import Case, Quantization
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLE"]

_MODELS = ("qwen-7b-chat", "qwen-14b-chat", "qwen-72b-chat")
_QUANTIZATIONS: tuple[Quantization, ...] = ("bf16", "gptq-int4", "gptq-int8", "bnb-nf4")
_TWO_GPUS = {("qwen-72b-chat", "bf16")}

TABLE = Table(
    name="quantization",
    title="Quantization",
    columns=(("Model", "model"), ("Quantization", "quantization"), ("GPUs", "num_gpus")),
    rows=tuple(
        Row(
            f"{model}-{quantization}",
            Case(model=model, quantization=quantization, num_gpus=2 if (model, quantization) in _TWO_GPUS else 1),
        )
        for model in _MODELS
        for quantization in _QUANTIZATIONS
    ),
)
