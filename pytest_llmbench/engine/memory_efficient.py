"""
The memory-efficient attention of xformers, in the form that transformers' models call.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import repeat_kv

from pytest_llmbench.engine.outcomes import Unavailable

__all__ = ["memory_efficient_attention", "why_unavailable"]


def memory_efficient_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """
    Causal attention; *attention_mask* is ignored, since padding on the right is later than every token.

    Args:
        module: has `num_key_value_groups`.
        query: [batch, heads, length, head_dim].
        key: [batch, key-value heads, length, head_dim], and so is *value*.
        attention_mask: not looked at.
        scaling: of the scores; None for head_dim ** -0.5.
        dropout: of the weights.
        sliding_window: how many tokens back a query sees; must not be shorter than the length.
        kwargs: what other attentions take.

    Returns:
        [batch, length, heads, head_dim], and no weights.

    Raises:
        Unavailable: a sliding window would hide tokens.
    """
    if sliding_window is not None and sliding_window < query.shape[2]:
        raise Unavailable(
            f"attention xformers is built in without sliding windows, and {query.shape[2]} tokens exceed "
            f"that of {sliding_window}; use attention='flash' or 'sdpa'"
        )
    key, value = (repeat_kv(states, module.num_key_value_groups) for states in (key, value))
    return _attend(*(states.transpose(1, 2) for states in (query, key, value)), p=dropout, scale=scaling), None


def why_unavailable(device: torch.device) -> str | None:
    """
    Why xformers' attention cannot run on *device*; None if it can, which takes a tiny trial to know.

    The version of torch that xformers was built for does not tell: parts of it work with others.
    """
    if find_spec("xformers") is None:
        return "xformers is not installed: pip install 'pytest-llmbench[xformers]'"
    try:
        importlib.import_module("xformers.ops")
    except ImportError as error:  # for one, it refuses a flash-attn that it does not know
        return f"xformers is installed and does not load: {error}"
    trial = torch.zeros(1, 16, 1, 64, dtype=torch.bfloat16, device=device, requires_grad=True)
    try:
        _attend(trial, trial, trial).sum().backward()
    except (NotImplementedError, RuntimeError) as error:
        return _built_for_another_torch() or f"xformers cannot run here: {str(error).splitlines()[0]}"
    return None


def _attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """Causal; everything is [batch, length, heads, head_dim]."""
    ops = importlib.import_module("xformers.ops")
    return ops.memory_efficient_attention(query, key, value, attn_bias=ops.LowerTriangularMask(), **options)


def _built_for_another_torch() -> str | None:
    library = importlib.import_module("xformers._cpp_lib")
    failure = library._cpp_library_load_exception  # holds the build where the metadata is None
    build = library._build_metadata or getattr(failure, "build_info", None)
    if build is None or build.torch_version == torch.__version__:
        return None
    version = importlib.import_module("xformers").__version__
    return f"xformers {version} was built for torch {build.torch_version}, this is {torch.__version__}"
