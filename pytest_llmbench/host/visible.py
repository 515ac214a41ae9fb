"""Which GPUs CUDA would show a process, told without starting CUDA."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pytest_llmbench.host.nvml import NO_PERMISSION, Gpu, MigUnsupported, Nvml, NvmlUnavailable

__all__ = ["visible_gpus", "visible_positions"]


def visible_gpus(nvml: Nvml, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """
    The GPUs that a process with these environment variables sees, in the order in which CUDA numbers them.

    Reads CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER. Empty if the former hides every GPU. Give a
    process UUIDs rather than indices: unless CUDA_DEVICE_ORDER=PCI_BUS_ID, CUDA puts what it thinks
    the fastest GPU first, which NVML does not know. GPUs of one model it leaves in PCI order; with
    different models and no CUDA_VISIBLE_DEVICES the GPUs are right and their order is NVML's.

    Raises:
        MigUnsupported: a visible GPU is split by MIG, or a part of one is asked for.
        NvmlUnavailable: a visible GPU does not answer, none may be opened by this user, or GPUs of
            different models are asked for by indices of unknown order.
    """
    gpus = _openable(nvml)
    asked = environ.get("CUDA_VISIBLE_DEVICES")
    visible = []
    for position in visible_positions(asked, [gpu.uuid if isinstance(gpu, Gpu) else None for gpu in gpus]):
        gpu = gpus[position]
        if isinstance(gpu, NvmlUnavailable):
            raise gpu
        if gpu.mig:
            raise MigUnsupported(
                f"GPU {gpu.index} ({gpu.name}) is split by MIG, whose parts cannot be measured; "
                f"choose another through CUDA_VISIBLE_DEVICES, or turn it off: nvidia-smi -i {gpu.index} -mig 0"
            )
        visible.append(gpu)
    models = {gpu.name for gpu in gpus if isinstance(gpu, Gpu)}
    by_index = bool(visible) and asked is not None and not asked.startswith("GPU-")
    if by_index and len(models) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        raise NvmlUnavailable(
            f"CUDA_VISIBLE_DEVICES={asked} counts GPUs of different models in an order that only CUDA knows; "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or give UUIDs (nvidia-smi -L)"
        )
    return tuple(visible)


def visible_positions(asked: str | None, uuids: Sequence[str | None]) -> tuple[int, ...]:
    """
    Positions in *uuids* of the GPUs that CUDA_VISIBLE_DEVICES=*asked* shows, by CUDA's own rules.

    The entries are either all indices or all UUIDs, which may be cut short where that is unambiguous.
    The first entry that names nothing ends the list, and naming a GPU twice hides them all. None shows
    every GPU.

    Raises:
        MigUnsupported: *asked* names a MIG device.
    """
    if asked is None:
        return tuple(range(len(uuids)))
    if asked.startswith("MIG-"):
        raise MigUnsupported(
            f"CUDA_VISIBLE_DEVICES={asked} is a part of a GPU split by MIG, which cannot be measured; give a whole GPU"
        )
    position_of = _position_of_uuid if asked.startswith("GPU-") else _position_of_index
    positions: list[int] = []
    for entry in asked.split(","):
        position = position_of(entry, uuids)
        if position is None:
            break
        if position in positions:
            return ()
        positions.append(position)
    return tuple(positions)


def _openable(nvml: Nvml) -> list[Gpu | NvmlUnavailable]:
    """Every GPU that CUDA could count, or why it cannot be used."""
    gpus: list[Gpu | NvmlUnavailable] = []
    for index in range(nvml.num_gpus):
        try:
            gpus.append(nvml.gpu(index))
        except NvmlUnavailable as error:
            # CUDA neither shows nor counts a GPU whose device file may not be opened.
            if error.code != NO_PERMISSION:
                gpus.append(error)
    if not gpus:
        raise NvmlUnavailable(
            f"this user may open none of the {nvml.num_gpus} GPUs; ask for access to /dev/nvidia*", NO_PERMISSION
        )
    return gpus


def _position_of_index(entry: str, uuids: Sequence[str | None]) -> int | None:
    # CUDA reads a number and ignores what follows it, so that "1st" is 1.
    number = re.match(r"\s*[+-]?\d+", entry)
    index = int(number[0]) if number else -1
    return index if 0 <= index < len(uuids) else None


def _position_of_uuid(entry: str, uuids: Sequence[str | None]) -> int | None:
    digits = _digits(entry)
    if not (entry.startswith("GPU-") and digits):
        return None
    matching = [
        position for position, uuid in enumerate(uuids) if uuid is not None and _digits(uuid).startswith(digits)
    ]
    return matching[0] if len(matching) == 1 else None


def _digits(uuid: str) -> str:
    # As CUDA compares them: dashes and case do not matter, nor does what follows a whole UUID.
    return uuid.removeprefix("GPU-").replace("-", "").lower()[:32]
