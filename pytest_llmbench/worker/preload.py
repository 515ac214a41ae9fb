"""
Importing the training stack ahead of forking, and whether that left the process fit to fork.

A process that has initialised CUDA cannot hand it on to its children. Some libraries initialise it
when they are imported, and some change the environment variables that steer it; a child of a
server with either would fail, or measure another allocator than a fresh process does.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_llmbench.host.nvml import NvmlUnavailable, open_nvml
from pytest_llmbench.host.visible import visible_gpus

__all__ = ["preload"]

_CUDA_ERROR_NOT_INITIALIZED = 3
_STEERING = ("CUDA_", "PYTORCH_")
"""Prefixes of the environment variables that CUDA and torch's allocator obey."""


def preload(modules: Iterable[str]) -> str | None:
    """
    Import *modules* in order, up to the first that makes this process unfit to fork.

    A module that fails to import is passed over: the child that needs it meets the same error
    and reports it.

    Returns:
        What an import did, as "importing NAME ...", or None.
    """
    steering = _steering()
    for name in modules:
        try:
            with _capability_by_nvml():
                importlib.import_module(name)
        except Exception:  # noqa: BLE001 - whatever a broken library raises, it is the child's to report
            traceback.print_exc()
        if _cuda_initialised():
            return f"importing {name} initialised CUDA"
        if changed := sorted(variable for variable, _ in _steering() ^ steering):
            return f"importing {name} changed {', '.join(dict.fromkeys(changed))}"
    return None


@contextmanager
def _capability_by_nvml() -> Iterator[None]:
    """
    Let NVML say what GPUs can do while a library is imported.

    bitsandbytes and others ask torch for it then, which initialises CUDA for an answer that NVML has too.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    by_cuda = torch.cuda.get_device_capability

    def get_device_capability(device: Any = None) -> tuple[int, int]:
        if not torch.cuda.is_initialized():
            try:
                with open_nvml() as nvml:
                    return nvml.compute_capability(visible_gpus(nvml, os.environ)[_index(device)])
            except (NvmlUnavailable, IndexError):
                pass  # CUDA has the word then
        capability: tuple[int, int] = by_cuda(device)
        return capability

    torch.cuda.get_device_capability = get_device_capability
    try:
        yield
    finally:
        torch.cuda.get_device_capability = by_cuda


def _index(device: Any) -> int:
    """Of an index, a `torch.device`, a `torch.cuda.device`, or None, for which a fresh process has 0."""
    if isinstance(device, int):
        return device
    return getattr(device, "idx", None) or getattr(device, "index", None) or 0


def _steering() -> set[tuple[str, str]]:
    return {(name, value) for name, value in os.environ.items() if name.startswith(_STEERING)}


def _cuda_initialised() -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return True
    # torch knows of its own contexts only; a mere torch.cuda.is_available() initialises the driver
    # behind its back. The driver is asked where it is loaded at all: loading it here is not wanted.
    if "/libcuda.so" not in Path("/proc/self/maps").read_text():
        return False
    context = ctypes.c_void_p()
    return bool(ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(context)) != _CUDA_ERROR_NOT_INITIALIZED)
