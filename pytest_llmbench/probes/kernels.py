"""
Kernel names made short enough to compare: what took the GPU's time, by family of kernels.

Two releases of a library rarely share a mangled name, so that names are cut to what the kernel does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from pytest_llmbench.probes.activity import DeviceActivity
from pytest_llmbench.schema.measurement import KernelShare

__all__ = ["LISTED", "family", "kernel_shares"]

LISTED = 15
"""So many families are listed by name."""

_OPERATION = re.compile(r"\b(?:CUDAFunctor(?:On\w+?)?_(\w+)|(\w+?)_?(?:Functor|Ops|Op|_kernel|_kernel_cuda))\b")
_WRAPPERS = {"Binary", "Unary", "AUnary", "BUnary", "Reduce", "func_wrapper"}
_TILE = re.compile(r"_?\d+x\d+.*")
_NAMESPACE = re.compile(r"(?:\w+|\(anonymous namespace\))::")


def family(name: str) -> str:
    """
    The kernel without its template arguments, parameters, namespaces and tile sizes.

    Elementwise and reducing kernels of torch keep the operation, which is all that tells them apart:

    >>> family("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float> >(int)")
    'vectorized_elementwise_kernel[add]'
    >>> family("nvjet_tst_128x256_64x4_1x2_h_bz_coopB_TNT")
    'nvjet_tst'
    """
    plain, arguments = _without_arguments(name.removeprefix("void "))
    short = _TILE.sub("", _NAMESPACE.sub("", plain)).strip() or plain
    operation = _operation(arguments) if short.endswith(("elementwise_kernel", "reduce_kernel")) else ""
    return f"{short}[{operation}]"[:80] if operation else short[:80]


def kernel_shares(
    micro_batches: DeviceActivity, optimizer_step: DeviceActivity, *, per_sample: float, per_step_sample: float
) -> tuple[KernelShare, ...]:
    """
    Families by time, longest first; those beyond `LISTED` together as `other`.

    Args:
        per_sample: one over the samples of the micro-batches.
        per_step_sample: one over the samples of an optimizer step.
    """
    launches: defaultdict[str, float] = defaultdict(float)
    seconds: defaultdict[str, float] = defaultdict(float)
    for activity, rate in ((micro_batches, per_sample), (optimizer_step, per_step_sample)):
        for kernel in activity.by_kernel:
            name = family(kernel.name)
            launches[name] += kernel.launches * rate
            seconds[name] += kernel.seconds * rate
    return _shares(launches, seconds)


def _shares(launches: Mapping[str, float], seconds: Mapping[str, float]) -> tuple[KernelShare, ...]:
    names = sorted(seconds, key=lambda name: (-seconds[name], name))
    listed = [KernelShare(name, launches[name], seconds[name]) for name in names[:LISTED]]
    if rest := names[LISTED:]:
        others = sum(launches[name] for name in rest), sum(seconds[name] for name in rest)
        listed.append(KernelShare("other", *others))
    return tuple(listed)


def _without_arguments(name: str) -> tuple[str, str]:
    """The name up to its template arguments or parameters, and what is in the template arguments."""
    cut = min((at for at in (name.find("<"), name.find("(")) if at > 0), default=len(name))
    if name[cut : cut + 22] == "(anonymous namespace):":
        head, rest = name[: cut + 23], name[cut + 23 :]
        plain, arguments = _without_arguments(rest)
        return head + plain, arguments
    return name[:cut], name[cut:] if name[cut : cut + 1] == "<" else ""


def _operation(arguments: str) -> str:
    """The first operation among template arguments that is more than a wrapper of one."""
    found = (match[1] or match[2] for match in _OPERATION.finditer(arguments))
    return next((name for name in found if name not in _WRAPPERS), "")
