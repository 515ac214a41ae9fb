"""
Which attention a case asks for, whether it can run here, and which one really ran.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from importlib.util import find_spec

import torch

from pytest_llmbench.cases import Attention, Case
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.workload import Workload

__all__ = [
    "AttentionUnavailable",
    "check_available",
    "effective_attention",
    "implementation",
    "is_fallback",
    "observed_attention",
]

_IMPLEMENTATIONS: dict[Attention, str] = {"flash": "flash_attention_2", "sdpa": "sdpa", "eager": "eager"}

_SIGNATURES = (
    # torch carries a copy of flash-attn, in a namespace whose name ends like the original's.
    ("flash-attn", re.compile(r"(?<!\w)flash::|flash_attn::|FlashAttn(Varlen)?(QKVPacked|KVPacked)?Func")),
    ("xformers", re.compile(r"xformers")),
    # From the slowest of torch's kernels to the fastest, so that a fallback in a part of the layers is not hidden.
    ("sdpa-math", re.compile(r"_scaled_dot_product_attention_math")),
    ("sdpa-efficient", re.compile(r"_scaled_dot_product_efficient_attention|fmha_cutlass")),
    ("sdpa-flash", re.compile(r"_scaled_dot_product_flash_attention|pytorch_flash::")),
    ("sdpa-cudnn", re.compile(r"_scaled_dot_product_cudnn_attention|cudnn_generated_fort_native_sdpa")),
    # Not the loss, whose operator is aten::_log_softmax.
    ("eager", re.compile(r"^aten::(_safe)?_?softmax$")),
)

_EXPECTED: dict[Attention, frozenset[str]] = {
    "flash": frozenset({"flash-attn"}),
    "sdpa": frozenset({"sdpa-efficient", "sdpa-flash", "sdpa-cudnn"}),
    "eager": frozenset({"eager"}),
    "xformers": frozenset({"xformers"}),
}


class AttentionUnavailable(Unavailable):
    """The attention that the case asks for cannot run here; the message says why."""


def effective_attention(case: Case, workload: Workload) -> Attention:
    """
    The attention to run: the case's own, but for miniatures on the CPU.

    There `flash` and `xformers`, which have no CPU kernels, become `sdpa`. That misleads nobody:
    measurements at smoke scale never compare with measurements at full scale.
    """
    if workload.scale == "smoke" and workload.device == "cpu" and case.attention in ("flash", "xformers"):
        return "sdpa"
    return case.attention


def implementation(attention: Attention) -> str:
    """
    What transformers calls it.

    Raises:
        AttentionUnavailable: transformers has no such attention.
    """
    name = _IMPLEMENTATIONS.get(attention)
    if name is None:
        raise AttentionUnavailable(f"attention {attention} is not built in yet")
    return name


def check_available(attention: Attention, device: torch.device) -> None:
    """
    Raises:
        AttentionUnavailable: *attention* cannot run on *device*.
    """
    implementation(attention)
    if attention != "flash":
        return
    if device.type != "cuda":
        raise AttentionUnavailable(f"flash-attn needs a CUDA device and this is {device.type!r}; use attention='sdpa'")
    if find_spec("flash_attn") is None:
        raise AttentionUnavailable("flash-attn is not installed: pip install 'pytest-llmbench[flash]'")
    try:
        importlib.import_module("flash_attn")
    except ImportError as error:  # built for another torch
        raise AttentionUnavailable(f"flash-attn is installed and does not load: {error}") from error
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        raise AttentionUnavailable(
            f"flash-attn needs compute capability 8.0, this GPU has {capability[0]}.{capability[1]}"
        )


def observed_attention(names: Iterable[str]) -> str | None:
    """
    Which attention ran, judged from the GPU kernels and the ATen operators of a profiled step.

    Returns:
        `flash-attn`, `xformers`, `sdpa-math`, `sdpa-efficient`, `sdpa-flash`, `sdpa-cudnn` or
        `eager`; of several the first in this order. None if none of them is recognised.
    """
    seen = set(names)
    for attention, signature in _SIGNATURES:
        if any(signature.search(name) for name in seen):
            return attention
    return None


def is_fallback(requested: Attention, observed: str | None) -> bool:
    """
    Whether something else ran than what was asked for.

    `sdpa` may be any of torch's fused kernels, but not its unfused `sdpa-math`. None is no
    evidence of a fallback, nor against one.
    """
    return observed is not None and observed not in _EXPECTED[requested]
