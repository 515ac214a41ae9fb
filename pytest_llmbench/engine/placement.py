"""
The layers of one model split over several GPUs, as accelerate splits them for `device_map="auto"`.

Naive model parallelism: each GPU runs its layers in turn while the others wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import CustomDtype, get_balanced_memory
from torch import nn

from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.engine.quantization.backend import linear_places
from pytest_llmbench.schema.case import Quantization
from pytest_llmbench.schema.units import gib

__all__ = ["DoesNotFit", "Placement", "balanced", "describe", "device_of", "free_bytes", "place"]

Placement = Mapping[str, torch.device]
"""
Devices by the names of modules, each with all that is in it; `""` is the whole model. The device of
the inputs comes first.
"""

_STORED: dict[str, Any] = {
    "bnb-nf4": CustomDtype.INT4,
    "bnb-int8": torch.int8,
    "gptq-int4": CustomDtype.INT4,
    "gptq-int8": torch.int8,
}
"""What a weight of a quantized layer takes; the scales beside it are not counted."""


class DoesNotFit(torch.cuda.OutOfMemoryError):
    """The weights alone take more than the GPUs have free; the message says how much of each."""


def free_bytes(devices: Sequence[torch.device]) -> list[int]:
    """Free memory of each GPU, in which its CUDA context is made by asking."""
    return [torch.cuda.mem_get_info(device)[0] for device in devices]


def balanced(
    model: Any,
    devices: Sequence[torch.device],
    memory: Sequence[int],
    dtype: torch.dtype,
    quantization: Quantization = "bf16",
) -> Placement:
    """
    Which part of *model* goes to which of the *devices*: about as many bytes of weights to each, in their order.

    By accelerate's rules no layer is cut in two, the first device keeps room for the largest layer and so
    gets less, and the last one takes what is left.

    Args:
        model: its weights need no memory yet; a head that is the embedding must be tied to it already.
        devices: where the embedding starts and the head ends, unless they are tied.
        memory: bytes for weights on each device.
        dtype: of the weights that are not quantized.
        quantization: of the linear layers.

    Raises:
        DoesNotFit: accelerate would leave a part of the model to the CPU or to the disk.
        Unavailable: the model does not say which of its modules are layers, or has too few for all devices.
    """
    layers = _layer_classes(model)
    if not layers:
        raise Unavailable(
            f"{type(model).__name__} has no _no_split_modules, by which its layers are split over {len(devices)} GPUs; "
            "use num_gpus=1"
        )
    stored = _stored_dtypes(model, quantization)
    share = get_balanced_memory(
        model, dict(enumerate(memory)), no_split_module_classes=layers, dtype=dtype, special_dtypes=stored
    )
    found = infer_auto_device_map(model, share, no_split_module_classes=layers, dtype=dtype, special_dtypes=stored)
    if left := [name for name, device in found.items() if not isinstance(device, int)]:
        free = ", ".join(f"{gib(count)} GiB" for count in memory)
        raise DoesNotFit(
            f"the layers do not fit on {len(devices)} GPUs with {free} free: {', '.join(left[:3])}"
            f"{f' and {len(left) - 3} more parts' if len(left) > 3 else ''} would be left to the CPU or the disk; "
            "use more GPUs or a quantization"
        )
    if (used := len(set(found.values()))) < len(devices):
        raise Unavailable(
            f"the layers of {type(model).__name__} fill only {used} of {len(devices)} GPUs; use num_gpus={used}"
        )
    # In the order of the devices, which accelerate's clearing up does not keep.
    return {name: devices[index] for name, index in sorted(found.items(), key=itemgetter(1))}


def device_of(tensor: str, placement: Placement) -> torch.device:
    """
    Where the parameter or buffer of that full name goes; the first device for one that no module of the map holds.
    """
    name = tensor
    while name and name not in placement:
        name = name.rpartition(".")[0]
    return placement.get(name) or next(iter(placement.values()))


def place(model: Any, placement: Placement) -> None:
    """
    Give every module of *model* the hook by which accelerate brings its inputs to its device.

    What is elsewhere is moved. Inputs start on the first device and the loss is computed where the
    head is; loss and logits then come back to where the inputs were, which copies all logits in
    every forward pass, for users too.
    """
    first = next(iter(placement.values()))
    skipped = getattr(model, "_skip_keys_device_placement", None)
    dispatch_model(model, dict(placement), main_device=first, skip_keys=skipped, force_hooks=True)


def describe(model: nn.Module) -> str | None:
    """
    Which layers are where, as "cuda:0 layers 0-39, cuda:1 layers 40-79"; None if all is on one device.

    Of a model that does not tell its layers, the devices alone.
    """
    devices = sorted({parameter.device for parameter in model.parameters()}, key=lambda one: (one.type, one.index or 0))
    if len(devices) < 2:
        return None
    names = _layer_classes(model)
    layers = [module for module in model.modules() if type(module).__name__ in names]
    held: dict[torch.device, list[int]] = {device: [] for device in devices}
    for index, layer in enumerate(layers):
        held[next(layer.parameters()).device].append(index)
    return ", ".join(f"{device}{_range(indices)}" for device, indices in held.items())


def _range(indices: list[int]) -> str:
    if not indices:
        return ""
    return f" layer {indices[0]}" if len(indices) == 1 else f" layers {indices[0]}-{indices[-1]}"


def _layer_classes(model: Any) -> list[str]:
    # A list, or since transformers 5 the set of what the parts of the model have.
    return sorted(getattr(model, "_no_split_modules", None) or ())


def _stored_dtypes(model: Any, quantization: Quantization) -> dict[str, Any]:
    """By the names of the weights; without quantization none is special."""
    if quantization not in _STORED:
        return {}
    quantized = {place.linear for place in linear_places(model)}
    return {f"{name}.weight": _STORED[quantization] for name, module in model.named_modules() if module in quantized}
