"""
Models of the user's own: a directory or an id of the Hugging Face hub, built by transformers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_llmbench.engine.models.architecture import Architecture
from pytest_llmbench.engine.outcomes import Unavailable

__all__ = ["ModelUnavailable", "checkpoint", "hub", "read_architecture"]

_PROJECTIONS = frozenset(
    {"q_proj", "k_proj", "v_proj", "qkv_proj", "W_pack", "Wqkv", "c_attn", "query_key_value", "query", "key", "value"}
)
"""What models call their query, key and value projections."""


class ModelUnavailable(Unavailable):
    """A model that cannot be built; the message says which and why."""


@functools.cache
def read_architecture(model: str) -> Architecture:
    """
    The sizes that the configuration of *model* gives, and the linear layers that it leads to.

    Raises:
        ModelUnavailable: there is no configuration, or it is none of a model that transformers can build.
    """
    config = _config(model)
    sizes = config.get_text_config()
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if missing := [name for name in needed if getattr(sizes, name, None) is None]:
        raise ModelUnavailable(f"model {model!r}: its configuration has no {' nor '.join(missing)}")
    with torch.device("meta"):
        linear = _linear_leaves(_empty(model, config, "eager"))
    num_heads = sizes.num_attention_heads
    return Architecture(
        name=model,
        family="hub",
        hidden_size=sizes.hidden_size,
        num_layers=sizes.num_hidden_layers,
        num_heads=num_heads,
        num_kv_heads=getattr(sizes, "num_key_value_heads", None) or num_heads,
        intermediate_size=getattr(sizes, "intermediate_size", None) or 4 * sizes.hidden_size,
        vocab_size=sizes.vocab_size,
        max_positions=getattr(sizes, "max_position_embeddings", None),
        sliding_window=getattr(sizes, "sliding_window", None),
        default_targets=tuple(name for name in linear if name in _PROJECTIONS),
        all_targets=linear,
    )


def hub(architecture: Architecture, attention_implementation: str) -> PreTrainedModel:
    """
    The model without its weights, which the caller keeps from taking memory.

    Args:
        architecture: what `read_architecture` gave, or a miniature of it.
        attention_implementation: as transformers names it.

    Raises:
        ModelUnavailable: transformers cannot build it, or not with this attention.
    """
    config = _config(architecture.name)
    if architecture != read_architecture(architecture.name):
        with _explained(architecture.name):
            _shrink(config.get_text_config(), architecture)
    return _empty(architecture.name, config, attention_implementation)


def checkpoint(model: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """
    The weights of *model* on the CPU by parameter name.

    Raises:
        ModelUnavailable: they are not there, or quantized.
    """
    if getattr(_config(model), "quantization_config", None) is not None:
        raise ModelUnavailable(f"model {model!r}: its weights are quantized already; give the checkpoint it comes from")
    dtype_argument = "dtype" if int(transformers.__version__.partition(".")[0]) >= 5 else "torch_dtype"
    with _explained(model):
        loaded = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **{dtype_argument: dtype})
    return loaded.state_dict()


def _config(model: str) -> Any:
    if model.startswith(("/", ".")) and not Path(model, "config.json").is_file():
        raise ModelUnavailable(f"model {model!r}: there is no file {Path(model, 'config.json')}")
    with _explained(model):
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    config.get_text_config().use_cache = False
    return config


def _empty(model: str, config: Any, attention_implementation: str) -> PreTrainedModel:
    with _explained(model):
        return AutoModelForCausalLM.from_config(
            config, attn_implementation=attention_implementation, trust_remote_code=False
        )


def _shrink(sizes: Any, small: Architecture) -> None:
    """Give a configuration the sizes of a miniature, as far as it has them."""
    for name, value in {
        "hidden_size": small.hidden_size,
        "num_hidden_layers": small.num_layers,
        "num_attention_heads": small.num_heads,
        "num_key_value_heads": small.num_kv_heads,
        "head_dim": small.hidden_size // small.num_heads,
        "intermediate_size": small.intermediate_size,
        "vocab_size": small.vocab_size,
        "sliding_window": small.sliding_window,
        "pad_token_id": None,  # may lie beyond the vocabulary
    }.items():
        computed = isinstance(getattr(type(sizes), name, None), property)
        if getattr(sizes, name, None) is not None and not computed:
            setattr(sizes, name, value)
    if getattr(sizes, "layer_types", None) is not None:
        kinds = list(dict.fromkeys(sizes.layer_types))
        with suppress(AttributeError):  # a configuration that computes them
            sizes.layer_types = (kinds * small.num_layers)[: small.num_layers]


def _linear_leaves(model: PreTrainedModel) -> tuple[str, ...]:
    head = model.get_output_embeddings()
    leaves = (
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    )
    return tuple(dict.fromkeys(leaves))


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """What transformers raises for a model that is missing or that it does not know, as one sentence."""
    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, ImportError) as error:
        reason = re.split(r"(?<=\.)\s|\n", str(error).strip())[0]
        raise ModelUnavailable(f"model {model!r} cannot be built by transformers: {reason}") from error
