"""LoRA on frozen weights of 16, 8 and 4 bits."""

from __future__ import annotations

from pytest_llmbench.schema.case import Case, Quantization
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLE"]

_MODELS = ("qwen-7b-chat", "qwen-14b-chat", "qwen-72b-chat")
_QUANTIZATIONS: dict[str, Quantization] = {
    "bf16": "bf16",
    "int4-gptq": "gptq-int4",
    "int8-gptq": "gptq-int8",
    "int4-bnb": "bnb-nf4",
}
_TWO_GPUS = {("qwen-72b-chat", "bf16")}

TABLE = Table(
    name="quantization",
    title="Quantization",
    columns=(("Model", "model"), ("Quantization", "quantization"), ("GPUs", "num_gpus")),
    rows=tuple(
        Row(
            f"{model}-{label}",
            Case(model=model, quantization=quantization, num_gpus=2 if (model, label) in _TWO_GPUS else 1),
        )
        for model in _MODELS
        for label, quantization in _QUANTIZATIONS.items()
    ),
)
