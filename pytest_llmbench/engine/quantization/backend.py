"""
What a backend of quantized weights does while a model is built, and what it needs of its library.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from torch import nn

from pytest_llmbench.engine.outcomes import Unavailable

__all__ = [
    "Bf16",
    "LinearPlace",
    "QuantizationUnavailable",
    "Quantizer",
    "kept_environment",
    "linear_places",
    "load_library",
    "logical_elements",
]

_BROKEN = (ImportError, OSError, RuntimeError, AttributeError, TypeError, ValueError)
"""What libraries raise when they are imported next to a torch or a transformers that they were not made for."""


class QuantizationUnavailable(Unavailable):
    """The backend is not installed or does not work here; the message says why."""


class Quantizer(Protocol):
    """
    Two hooks of building a model.

    A model is quantized layer by layer as its weights come to the device, so that a model whose
    bf16 weights would not fit can be built.
    """

    def prepare(self, model: Any) -> None:
        """
        Make *model* ready while it has no storage yet, and mark it as peft wants it.

        Quantized layers take the place of the linear ones (but the head) here, or in `store`.
        """

    def store(self, module: nn.Module) -> None:
        """Quantize the own weights of *module*, which have just been drawn on the device."""


class Bf16:
    """Weights as they are: nothing is quantized."""

    def prepare(self, model: Any) -> None:
        """Every linear layer stays what it is."""

    def store(self, module: nn.Module) -> None:
        """The weights stay as they were drawn."""


class LinearPlace(NamedTuple):
    """Where a linear layer sits, and how another takes its place."""

    parent: nn.Module
    name: str
    linear: nn.Linear

    def put(self, layer: nn.Module) -> None:
        setattr(self.parent, self.name, layer)


def linear_places(model: Any) -> list[LinearPlace]:
    """Every linear layer of *model* but the head, which no backend quantizes."""
    head = model.get_output_embeddings()
    return [
        LinearPlace(parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and child is not head
    ]


def logical_elements(model: nn.Module) -> int:
    """Elements of all weights, biases and adapters of *model*, as many as there were before packing."""
    in_parameters = sum(_parameter_elements(parameter) for parameter in model.parameters())
    return in_parameters + sum(_buffer_elements(module) for module in model.modules())


def load_library(module: str, extra: str) -> ModuleType:
    """
    Import *module*, and leave the environment variables as they are.

    Raises:
        QuantizationUnavailable: its library is not installed, which pip's *extra* cures, or is broken.
    """
    library = module.partition(".")[0]
    if find_spec(library) is None:
        raise QuantizationUnavailable(f"{library} is not installed: pip install 'pytest-llmbench[{extra}]'")
    try:
        with kept_environment():
            return importlib.import_module(module)
    except _BROKEN as error:
        raise QuantizationUnavailable(f"{library} is installed and does not load: {error}") from error


@contextmanager
def kept_environment() -> Iterator[None]:
    """
    Take back every change to the environment variables.

    gptqmodel sets PYTORCH_ALLOC_CONF when it is imported. torch reads it when it first allocates
    on the GPU, which a mere import does not do, so taken back in time it steers nothing.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _parameter_elements(parameter: nn.Parameter) -> int:
    # bitsandbytes packs two weights into a byte and keeps their shape beside them.
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else packed.shape.numel()


def _buffer_elements(module: nn.Module) -> int:
    """Of a GPTQ layer, which has no parameters: its packed weights and its bias are buffers."""
    buffers = dict(module.named_buffers(recurse=False))
    bits = getattr(module, "bits", None)
    if "qweight" not in buffers or not isinstance(bits, int):
        return 0
    words, bias = buffers["qweight"], buffers.get("bias")
    return words.numel() * words.element_size() * 8 // bits + (0 if bias is None else bias.numel())
