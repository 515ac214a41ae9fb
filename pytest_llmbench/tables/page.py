"""
The 96 rows of the published page, table by table, in its order.

The page is the benchmark of ms-swift of January 2024, `docs/source_en/LLM/Benchmark.md` in its repository.
"""

from __future__ import annotations

import msgspec

from pytest_llmbench.schema.case import Attention, Case, LoraTargets, Quantization

__all__ = [
    "BATCH_SIZE",
    "FLASH_ATTENTION",
    "FULL_MAX_LENGTH",
    "GRADIENT_ACCUMULATION",
    "LORA_MAX_LENGTH",
    "LORA_RANK",
    "QUANTIZATION",
    "Row",
    "Table",
]


class Row(msgspec.Struct, frozen=True):
    """One line of a table."""

    id: str
    """Unique within the table; in the test's name and in baselines, so it never changes."""
    case: Case


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the published page."""

    name: str
    """Names the test (`test_<name>`) and the baseline file (`<name>.json`)."""
    title: str
    """The heading of the page."""
    columns: tuple[tuple[str, str], ...]
    """Header and field of `Case`: the model, then every field that is not the same in all rows."""
    rows: tuple[Row, ...]
    """In the order of the page."""


_LENGTHS = (512, 1024, 2048, 4096, 8192)

_QUANTIZATION_MODELS = ("qwen-7b-chat", "qwen-14b-chat", "qwen-72b-chat")
_QUANTIZATIONS: tuple[Quantization, ...] = ("bf16", "gptq-int4", "gptq-int8", "bnb-nf4")
_QUANTIZATION_TWO_GPUS = {("qwen-72b-chat", "bf16")}

QUANTIZATION = Table(
    name="quantization",
    title="Quantization",
    columns=(("Model", "model"), ("Quantization", "quantization"), ("GPUs", "num_gpus")),
    rows=tuple(
        Row(
            f"{model}-{quantization}",
            Case(
                model=model,
                quantization=quantization,
                num_gpus=2 if (model, quantization) in _QUANTIZATION_TWO_GPUS else 1,
            ),
        )
        for model in _QUANTIZATION_MODELS
        for quantization in _QUANTIZATIONS
    ),
)
"""LoRA on frozen weights of 16, 8 and 4 bits."""

# Not `case.MODELS`: a model added there is not on the page.
_LORA_MAX_LENGTH_MODELS = (
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
# Flash attention was switched on for all rows, but what the page ran knew it for the other models only.
_OWN_ATTENTION: dict[str, Attention] = {
    "chatglm3-6b": "sdpa",
    "baichuan2-7b-chat": "xformers",
    "baichuan2-13b-chat": "sdpa",
}
_LORA_MAX_LENGTH_TWO_GPUS = {*(("qwen-72b-chat", length) for length in _LENGTHS), ("yi-34b-chat", 8192)}

LORA_MAX_LENGTH = Table(
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
                num_gpus=2 if (model, length) in _LORA_MAX_LENGTH_TWO_GPUS else 1,
            ),
        )
        for model in _LORA_MAX_LENGTH_MODELS
        for length in _LENGTHS
    ),
)
"""LoRA on each model, with samples of up to 512 and up to 8192 tokens."""

_FULL_MAX_LENGTH_MODELS = ("qwen-1_8b-chat", "qwen-7b-chat", "qwen-14b-chat")
_FULL_MAX_LENGTH_TWO_GPUS = {("qwen-7b-chat", 8192), *(("qwen-14b-chat", length) for length in _LENGTHS)}

FULL_MAX_LENGTH = Table(
    name="full_max_length",
    title="Model Type & Max Length: Full",
    columns=(("Model", "model"), ("Max Length", "max_length"), ("GPUs", "num_gpus")),
    rows=tuple(
        Row(
            f"{model}-{length}",
            Case(
                model=model,
                tuner="full",
                max_length=length,
                num_gpus=2 if (model, length) in _FULL_MAX_LENGTH_TWO_GPUS else 1,
            ),
        )
        for model in _FULL_MAX_LENGTH_MODELS
        for length in _LENGTHS
    ),
)
"""Every parameter trained, with samples of up to 512 and up to 8192 tokens."""

# The page lists 16 accumulation steps for all rows, but what it ran took 16 / batch size by default.
BATCH_SIZE = Table(
    name="batch_size",
    title="Batch Size",
    columns=(("Model", "model"), ("Batch Size", "batch_size"), ("Accumulation Steps", "accumulation_steps")),
    rows=tuple(
        Row(
            f"qwen-7b-chat-batch-{size}",
            Case(model="qwen-7b-chat", batch_size=size, accumulation_steps=16 // size),
        )
        for size in (1, 2, 4, 8)
    ),
)
"""One to eight samples per micro-batch, sixteen per optimizer step throughout."""

# With it off, the page's memory fits one bf16 or fp32 attention matrix a layer: torch's math kernel, not eager with two.
_ATTENTIONS: dict[str, Attention] = {"flash": "flash", "no-flash": "sdpa-math"}
_CHECKPOINTING = {"checkpointing": True, "no-checkpointing": False}

FLASH_ATTENTION = Table(
    name="flash_attention",
    title="Use Flash Attn & Gradient Checkpointing",
    columns=(("Model", "model"), ("Attention", "attention"), ("Gradient Checkpointing", "gradient_checkpointing")),
    rows=tuple(
        Row(
            f"qwen-7b-chat-{attention_label}-{checkpointing_label}",
            Case(model="qwen-7b-chat", attention=attention, gradient_checkpointing=checkpointing),
        )
        for attention_label, attention in _ATTENTIONS.items()
        for checkpointing_label, checkpointing in _CHECKPOINTING.items()
    ),
)
"""Flash attention and gradient checkpointing, each on and off."""

_RANKS_AND_TARGETS: tuple[tuple[int, LoraTargets], ...] = ((2, "default"), (8, "default"), (64, "default"), (8, "all"))

LORA_RANK = Table(
    name="lora_rank",
    title="LoRA Rank & LoRA Target Modules",
    columns=(("Model", "model"), ("LoRA Rank", "lora_rank"), ("LoRA Target Modules", "lora_targets")),
    rows=tuple(
        Row(
            f"qwen-7b-chat-rank-{rank}-{targets}",
            Case(model="qwen-7b-chat", lora_rank=rank, lora_targets=targets),
        )
        for rank, targets in _RANKS_AND_TARGETS
    ),
)
"""How many LoRA parameters, and on which layers."""

GRADIENT_ACCUMULATION = Table(
    name="gradient_accumulation",
    title="Gradient Accumulation Steps",
    columns=(("Model", "model"), ("Gradient Accumulation Steps", "accumulation_steps")),
    rows=tuple(
        Row(f"qwen-7b-chat-accumulation-{steps}", Case(model="qwen-7b-chat", accumulation_steps=steps))
        for steps in (1, 2, 4, 8, 16, 32, 64)
    ),
)
"""One to sixty-four micro-batches per optimizer step."""
