"""
Which attention a case asks for, whether it can run here, and which one really ran.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pytest_llmbench.engine.memory_efficient import memory_efficient_attention, why_unavailable
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.schema import extensions
from pytest_llmbench.schema.case import Attention, Case
from pytest_llmbench.schema.workload import Workload

__all__ = [
    "AttentionUnavailable",
    "check_available",
    "check_imitated",
    "check_takes_bias",
    "effective_attention",
    "implementation",
    "is_fallback",
    "observed_attention",
    "pin_kernel",
]

_IMPLEMENTATIONS: dict[str, str] = {
    "flash": "flash_attention_2",
    "flash3": "flash_attention_3",
    "flash4": "flash_attention_4",
    "sdpa": "sdpa",
    "sdpa-flash": "sdpa",
    "sdpa-cudnn": "sdpa",
    "sdpa-efficient": "sdpa",
    "sdpa-math": "sdpa",
    "eager": "eager",
    "xformers": "xformers",
}
ALL_ATTENTION_FUNCTIONS["xformers"] = memory_efficient_attention

_KERNELS: dict[str, SDPBackend] = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}

_WITHOUT_CPU_KERNELS: frozenset[str] = frozenset(
    {"flash", "flash3", "flash4", "sdpa-cudnn", "sdpa-efficient", "xformers"}
)
_NOT_IMITATED: frozenset[str] = frozenset({"flash3", "flash4"})
_WITHOUT_BIAS: frozenset[str] = frozenset({"flash", "flash3", "flash4", "sdpa-flash", "xformers"})


class _Package(NamedTuple):
    name: str
    module: str
    install: str
    capability: tuple[int, int]
    """The least that it has kernels for."""


_FLASH: dict[str, _Package] = {
    "flash": _Package("flash-attn", "flash_attn", "pip install 'pytest-llmbench[flash]'", (8, 0)),
    "flash3": _Package("flash-attn-3", "flash_attn_interface", "build it from flash-attn's folder `hopper`", (8, 0)),
    "flash4": _Package("flash-attn-4", "flash_attn.cute", "pip install flash-attn-4", (9, 0)),
}

_SIGNATURES = (
    # First, since below its own operators it may run kernels of flash-attn or of torch.
    ("xformers", re.compile(r"xformers")),
    ("flash-attn-4", re.compile(r"flash_attncute|FlashAttention(Forward|Backward)Sm\d")),
    ("flash-attn-3", re.compile(r"flash_attn_3::|(?<!\w)flash::FlashAttn(Fwd|Bwd)")),
    # torch carries a copy of flash-attn, in a namespace whose name ends like the original's.
    ("flash-attn", re.compile(r"(?<!\w)flash::|flash_attn::|FlashAttn(Varlen)?(QKVPacked|KVPacked)?Func")),
    # From the slowest of torch's kernels to the fastest, so that a fallback in a part of the layers is not hidden.
    ("sdpa-math", re.compile(r"_scaled_dot_product_attention_math")),
    ("sdpa-efficient", re.compile(r"_scaled_dot_product_efficient_attention|fmha_cutlass")),
    ("sdpa-flash", re.compile(r"_scaled_dot_product_flash_attention|pytorch_flash::")),
    ("sdpa-cudnn", re.compile(r"_scaled_dot_product_cudnn_attention|cudnn_generated_fort_native_sdpa")),
    # Not the loss, whose operator is aten::_log_softmax.
    ("eager", re.compile(r"^aten::(_safe)?_?softmax$")),
)

_EXPECTED: dict[str, frozenset[str]] = {
    "flash": frozenset({"flash-attn"}),
    "flash3": frozenset({"flash-attn-3"}),
    "flash4": frozenset({"flash-attn-4"}),
    "sdpa": frozenset({"sdpa-efficient", "sdpa-flash", "sdpa-cudnn"}),
}
"""The others are observed under the name by which they are asked for."""


class AttentionUnavailable(Unavailable):
    """The attention that the case asks for cannot run here; the message says why."""


def effective_attention(case: Case, workload: Workload) -> Attention:
    """
    The attention to run: the case's own, but for miniatures on the CPU.

    There an attention that has no CPU kernels becomes `sdpa`. That misleads nobody: measurements
    at smoke scale never compare with measurements at full scale.
    """
    if workload.scale == "smoke" and workload.device == "cpu" and case.attention in _WITHOUT_CPU_KERNELS:
        return "sdpa"
    return case.attention


def implementation(attention: Attention) -> str:
    """
    What transformers calls it; one of torch's kernels is `sdpa` there, and `pin_kernel` does the rest.

    One of another package is made known to transformers by this.

    Raises:
        AttentionUnavailable: no package offers it, or the one that does is broken.
    """
    if attention in _IMPLEMENTATIONS:
        return _IMPLEMENTATIONS[attention]
    name = attention.replace(":", "_")  # a colon means something to transformers
    try:
        ALL_ATTENTION_FUNCTIONS[name] = extensions.load("attentions", attention)
    except extensions.ExtensionError as error:
        raise AttentionUnavailable(f"attention {attention}: {error}") from error
    return name


def check_available(attention: Attention, device: torch.device) -> None:
    """
    Raises:
        AttentionUnavailable: *attention* cannot run on *device*.
    """
    implementation(attention)
    if attention in _WITHOUT_CPU_KERNELS and device.type != "cuda":
        name = _FLASH[attention].name if attention in _FLASH else f"attention {attention}"
        raise AttentionUnavailable(f"{name} needs a CUDA device and this is {device.type!r}; use attention='sdpa'")
    if attention in _FLASH:
        _check_flash(attention, device)
    if attention == "xformers" and (reason := why_unavailable(device)):
        raise AttentionUnavailable(reason)


def check_imitated(attention: Attention) -> None:
    """
    Raises:
        AttentionUnavailable: *attention* has no shapes to be traced by without a GPU.
    """
    if attention in _NOT_IMITATED:
        raise AttentionUnavailable(
            f"attention {attention} cannot be traced without a GPU; use 'flash', 'sdpa' or 'eager'"
        )


def check_takes_bias(attention: Attention, model: str) -> None:
    """
    Raises:
        AttentionUnavailable: *attention* cannot run *model*, which adds a bias to the scores.
    """
    if attention in _WITHOUT_BIAS:
        raise AttentionUnavailable(
            f"{model} adds a bias to the attention scores (ALiBi), which attention {attention} cannot take; "
            "use attention='sdpa'"
        )


def pin_kernel(model: nn.Module, attention: Attention) -> None:
    """
    Let *model*, which runs `sdpa`, use no kernel of torch's but the one asked for.

    Without effect unless *attention* names one. Where the kernel cannot take what it is given,
    the forward pass raises `AttentionUnavailable`.
    """
    backend = _KERNELS.get(attention)
    if backend is None:
        return
    # Inside the layers, since one that recomputes itself in the backward pass must find the same kernel.
    for module in model.modules():
        if "Attention" in type(module).__name__:  # as transformers names them throughout
            module.forward = _pinned(module.forward, attention, backend)


def observed_attention(names: Iterable[str]) -> str | None:
    """
    Which attention ran, judged from the GPU kernels and the operators of a profiled step.

    Returns:
        `xformers`, `flash-attn-4`, `flash-attn-3`, `flash-attn`, `sdpa-math`, `sdpa-efficient`,
        `sdpa-flash`, `sdpa-cudnn` or `eager`; of several the first in this order. None if none of
        them is recognised.
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
    evidence of a fallback, nor against one; and nothing is known of the kernels of another package.
    """
    if extensions.is_extension(requested):
        return False
    return observed is not None and observed not in _EXPECTED.get(requested, {requested})


def _check_flash(attention: Attention, device: torch.device) -> None:
    package = _FLASH[attention]
    if implementation(attention) not in ALL_ATTENTION_FUNCTIONS:
        raise AttentionUnavailable(f"transformers {transformers.__version__} does not know {package.name}; upgrade it")
    try:
        importlib.import_module(package.module)
    except ModuleNotFoundError as error:
        if error.name is None or not package.module.startswith(error.name):
            raise AttentionUnavailable(f"{package.name} is installed and does not load: {error}") from error
        raise AttentionUnavailable(f"{package.name} is not installed: {package.install}") from None
    except ImportError as error:  # built for another torch
        raise AttentionUnavailable(f"{package.name} is installed and does not load: {error}") from error
    capability = torch.cuda.get_device_capability(device)
    if capability < package.capability:
        needed, found = (".".join(map(str, version)) for version in (package.capability, capability))
        raise AttentionUnavailable(f"{package.name} needs compute capability {needed}, this GPU has {found}")


def _pinned(forward: Callable[..., Any], attention: Attention, backend: SDPBackend) -> Callable[..., Any]:
    @functools.wraps(forward)
    def under_one_kernel(*args: Any, **kwargs: Any) -> Any:
        try:
            with sdpa_kernel(backend):
                return forward(*args, **kwargs)
        except RuntimeError as error:
            if not re.search("No (available kernel|viable backend)", str(error)):
                raise
            raise AttentionUnavailable(
                f"torch has no {attention.removeprefix('sdpa-')} kernel for this attention here, "
                "as with a mask, a head size or a dtype that it does not take; use attention='sdpa'"
            ) from error

    return under_one_kernel
