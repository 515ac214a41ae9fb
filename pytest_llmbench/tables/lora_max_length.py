"""LoRA on each model, with samples of up to 512 and up to 8192 tokens."""

from __future__ import annotations

from pytest_llmbench.schema.case import Attention, Case
from pytest_llmbench.tables.table import Row, Table

__all__ = ["TABLE"]

# Not `cases.MODELS`: a model added there is not on the page.
_MODELS = (
    "qwen-1_8b-chat",
    "qwen-7b-chat",
    "qwen-14b-chat",
    "qwen-72b-chat",
    "chatglm3-6b",
    "yi-6b-chat",
    "yi-34b-chat",
    "openbuddy-zephyr-7b-chat",
    "baichuan2-7b-chat",
    "baichuan2-13b-chat",
)
_LENGTHS = (512, 1024, 2048, 4096, 8192)
# Flash attention was switched on for all rows, but what the page ran knew it for the other models only.
_OWN_ATTENTION: dict[str, Attention] = {
    "chatglm3-6b": "sdpa",
    "baichuan2-7b-chat": "xformers",
    "baichuan2-13b-chat": "sdpa",
}
_TWO_GPUS = {*(("qwen-72b-chat", length) for length in _LENGTHS), ("yi-34b-chat", 8192)}

TABLE = Table(
    name="lora_max_length",
    title="Model Type & Max Length: LoRA",
    columns=(("Model", "model"), ("Max Length", "max_length"), ("Attention", "attention"), ("GPUs", "num_gpus")),
    rows=tuple(
        Row(
            f"{model}-{length}",
            Case(
                model=model,
                max_length=length,
                attention=_OWN_ATTENTION.get(model, "flash"),
                num_gpus=2 if (model, length) in _TWO_GPUS else 1,
            ),
        )
        for model in _MODELS
        for length in _LENGTHS
    ),
)
