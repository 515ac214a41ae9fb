"""
What one row asks for: the inputs of a fine-tuning case, and which combinations are refused.

A case says nothing about how it is measured (see `workload`) nor where (see `environment`). It is
a frozen value, travels as JSON, and is stored whole in every baseline.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import msgspec

from pytest_llmbench.schema.extensions import PATTERN, is_extension
from pytest_llmbench.schema.strict import first_flaw
from pytest_llmbench.schema.text import hint_at, printable

__all__ = [
    "LATER_FIELDS",
    "MODELS",
    "BuiltInAttention",
    "BuiltInQuantization",
    "Case",
    "CaseError",
    "Loop",
    "Parallelism",
]

LATER_FIELDS = ("arguments",)
"""Fields of a case that are newer than files of baselines, which leave them out at their default."""

MODELS = (
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
"""The models of the published page, by the names the page uses."""

Tuner = Literal["lora", "full"]
BuiltInQuantization = Literal["bf16", "bnb-nf4", "bnb-int8", "gptq-int4", "gptq-int8"]
BuiltInAttention = Literal[
    "flash",
    "flash3",
    "flash4",
    "sdpa",
    "sdpa-flash",
    "sdpa-cudnn",
    "sdpa-efficient",
    "sdpa-math",
    "eager",
    "xformers",
]
Quantization = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(get_args(BuiltInQuantization))}|{PATTERN})$")]
Attention = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(get_args(BuiltInAttention))}|{PATTERN})$")]
LoraTargets = Literal["default", "all"]
Weights = Literal["random", "pretrained"]
Loop = Literal["step", "trainer"]
Parallelism = Literal["split", "ddp", "fsdp"]
Count = Annotated[int, msgspec.Meta(ge=1)]


class CaseError(ValueError):
    """A case that cannot mean anything; the message names the field and what would do."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The inputs of one row. The defaults are those of the published page.

    Raises:
        CaseError: an unknown name, a count below 1, or a combination that no library can train.
    """

    model: str
    """
    A name of `MODELS`, an id of the Hugging Face hub, a directory with a `config.json`, or a model of
    another package (`package:name`, see `extensions`); for a custom step, whatever the user calls it.
    A directory of the current one gets `./` in front, so that the case reads the same everywhere.
    """
    tuner: Tuner = "lora"
    """`lora` trains adapters on a frozen model, `full` trains every parameter."""
    quantization: Quantization = "bf16"
    """How the frozen weights are stored; `package:name` is one of another package."""
    max_length: Count = 2048
    """Samples with more tokens than this are dropped, not cut."""
    batch_size: Count = 1
    """Samples per micro-batch, padded to the longest of them."""
    attention: Attention = "flash"
    """
    The attention implementation asked for, `package:name` for one of another package; what really ran is
    part of the measurement.
    """
    gradient_checkpointing: bool = True
    """Recompute each block in the backward pass (non-reentrant)."""
    lora_rank: Count = 8
    lora_targets: LoraTargets = "default"
    """`default` adapts the query, key and value projections, `all` every linear layer but the head."""
    accumulation_steps: Count = 16
    """Micro-batches per optimizer step."""
    num_gpus: Count = 1
    """GPUs that are used at once; on the CPU as many ranks, where there are any."""
    parallelism: Parallelism = "split"
    """
    What several GPUs are for: `split` spreads the layers of one process over them, one busy at a time;
    `ddp` and `fsdp` start a process (a rank) for each, which replicates the model or holds a shard of it.
    """
    weights: Weights = "random"
    """Drawn from a normal distribution, or those of the model's checkpoint, which `MODELS` go without."""
    loop: Loop = "step"
    """Our bare training step, least between the libraries and the clock, or `transformers.Trainer`."""
    step: str | None = None
    """`module:function` that builds the user's own training step; None for the built-in one."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of that function, as JSON has them."""

    def __post_init__(self) -> None:
        # msgspec checks types and bounds only when it decodes; a case written in Python gets the
        # same checks, so that a typo fails in the test that holds it and not in the worker.
        _check_known("quantization", self.quantization, get_args(BuiltInQuantization))
        _check_known("attention", self.attention, get_args(BuiltInAttention))
        try:
            msgspec.convert(msgspec.structs.asdict(self), _Fields)
        except msgspec.ValidationError as error:
            raise CaseError(f"not a case: {error}") from None
        _check_arguments(self.arguments, self.step)
        if self.step is not None:
            msgspec.structs.force_setattr(
                self, "arguments", copy.deepcopy(self.arguments)
            )  # the caller may change its own
            _check_reference(self.step)
            if self.loop == "trainer":
                raise CaseError(
                    f"loop='trainer' with step={self.step!r}: a step of your own is its own loop; leave out one of them"
                )
            msgspec.structs.force_setattr(self, "model", printable(self.model, lines=False))
        elif self.model != printable(self.model, lines=False):
            raise CaseError(f"model={self.model!r} has what cannot be shown; give the directory another name")
        elif self.model not in MODELS and not is_extension(self.model):
            msgspec.structs.force_setattr(self, "model", _located(self.model))
        elif self.weights == "pretrained":
            raise CaseError(
                f"model={self.model!r} with weights='pretrained': the published models and those of other packages "
                "are measured with random weights; give a hub id or a directory as the model, or weights='random'"
            )
        if self.tuner == "full" and self.quantization != "bf16":
            raise CaseError(
                f"tuner='full' with quantization={self.quantization!r}: quantized weights have no "
                "gradient; use tuner='lora' or quantization='bf16'"
            )

    def __hash__(self) -> int:
        others = (getattr(self, name) for name in self.__struct_fields__ if name != "arguments")
        return hash(tuple(others))

    @property
    def num_ranks(self) -> int:
        """Processes that train together, each on GPUs of its own."""
        return 1 if self.parallelism == "split" else self.num_gpus

    @classmethod
    def custom(
        cls,
        step: str,
        *,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        num_gpus: int = 1,
        parallelism: Parallelism = "split",
    ) -> Self:
        """
        A case whose training step is the user's own.

        Args:
            step: `module:function`, imported in the measuring process only. See `docs/custom-step.md`.
            name: what reports and baselines call it.
            arguments: keyword arguments of the function beside the device: JSON values, and part of what must be equal
                for two measurements to compare.
            num_gpus: GPUs that the step uses.
            parallelism: whether one process has them all (`split`), or each a rank of its own, in which
                torch's default process group is there when the step is built.
        """
        given = {} if arguments is None else dict(arguments)
        return cls(model=name, step=step, arguments=given, num_gpus=num_gpus, parallelism=parallelism)


_Fields = msgspec.defstruct("_Fields", [(field.name, field.type) for field in msgspec.structs.fields(Case)])
"""The field types of `Case`, without its checks across fields."""


def _located(model: str) -> str:
    if "/" in model:
        return model
    if Path(model, "config.json").is_file():
        return f"./{model}"
    hint = hint_at(model, MODELS, f"known: {', '.join(MODELS)}; others by hub id or directory")
    raise CaseError(f"unknown model {model!r}; {hint}")


def _check_known(field: str, name: object, known: Sequence[str]) -> None:
    if not isinstance(name, str) or name in known or is_extension(name):
        return  # of another type: the next check tells
    hint = hint_at(name, known, f"known: {', '.join(known)}; of another package: 'package:name'")
    raise CaseError(f"unknown {field} {name!r}; {hint}")


def _check_arguments(arguments: object, step: str | None) -> None:
    if not isinstance(arguments, dict):
        return  # the next check tells
    if arguments and step is None:
        raise CaseError(
            f"arguments={arguments!r} without a step: they are those of a step of your own; use Case.custom"
        )
    for name, value in arguments.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise CaseError(f"arguments has {name!r}, which is not the name of a keyword argument")
        if told := _not_json(value):
            raise CaseError(
                f"arguments[{name!r}] {told}; give numbers, texts, True, False, None, and lists and dicts of these"
            )


def _not_json(value: object) -> str | None:
    """The reason why a value would not come back from JSON as it is."""
    if type(value) not in (dict, list, str, int, float, bool, type(None)):
        return f"is or holds a value of type {type(value).__name__}"
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return "holds a dict with keys that are no texts"
        return next(filter(None, map(_not_json, value.values())), None)
    if isinstance(value, list):
        return next(filter(None, map(_not_json, value)), None)
    flaw = first_flaw(value)
    return None if flaw is None else flaw.sentence


def _check_reference(step: str) -> None:
    module, colon, function = step.partition(":")
    if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise CaseError(f"step={step!r} is not of the form 'package.module:function'")
