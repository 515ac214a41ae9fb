"""Every parameter trained, with samples of up to 512 and up to 8192 tokens."""

from __future__ import annotations

from pytest_llmbench.schema.case import Case
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLE"]

_MODELS = ("qwen-1_8b-chat", "qwen-7b-chat", "qwen-14b-chat")
_LENGTHS = (512, 1024, 2048, 4096, 8192)
_TWO_GPUS = {("qwen-7b-chat", 8192), *(("qwen-14b-chat", length) for length in _LENGTHS)}

TABLE = Table(
    name="full_max_length",
    title="Model Type & Max Length: Full",
    columns=(("Model", "model"), ("Max Length", "max_length"), ("GPUs", "num_gpus")),
    rows=tuple(
        Row(
            f"{model}-{length}",
            Case(model=model, tuner="full", max_length=length, num_gpus=2 if (model, length) in _TWO_GPUS else 1),
        )
        for model in _MODELS
        for length in _LENGTHS
    ),
)
