"""
What libraries find on a GPU, put in by name where tensors without content are traced as those of the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.optim import optimizer
from torch.utils import _foreach_utils as foreach
from torch.utils._python_dispatch import _disable_current_modes
from transformers import PreTrainedModel

from pytest_llmbench.engine import models, quantization, training
from pytest_llmbench.engine.fake import flash, kernels, quantized
from pytest_llmbench.engine.fake.kernels import Chosen
from pytest_llmbench.engine.fake.shapes import Shapes
from pytest_llmbench.engine.fake.split import Split
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.engine.placement import balanced
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload

__all__ = ["AsOnGpu", "as_on_a_gpu"]

_ENDLESS = 2**60


class AsOnGpu:
    """
    What was put in for a GPU.

    Attributes:
        shapes: the mode under which all runs.
    """

    shapes: Shapes

    def __init__(self, memory_bytes: int | None) -> None:
        self._attention = Chosen()
        self._memory_bytes = memory_bytes
        self.split: Split | None = None
        """Where tensors are, if there are several GPUs."""

    @property
    def kernels(self) -> set[str]:
        """Of torch's attention, those that would have run."""
        return self._attention.names

    def told(self, operators: Iterable[str]) -> str:
        """What was imitated where these operators ran, in words."""
        spaces = {name.partition("::")[0] for name in operators}
        libraries = {"flash_attn": f"flash-attn {flash.VERSION}", "xformers_flash": "xformers over flash-attn"}
        used = [text for space, text in libraries.items() if space in spaces]
        if self.kernels:
            used.append("torch's attention kernels of a Hopper GPU")
        return ", ".join([*used, "foreach optimizers", "cuBLAS workspaces of a Hopper GPU"])

    def workspace_bytes(self, operator: str, arguments: Sequence[Any]) -> list[int]:
        """What a kernel takes for itself while it runs."""
        for library in (flash, kernels, quantized):
            if found := library.workspace_bytes(operator, arguments):
                return found
        return []

    @contextmanager
    def observed(self, observe: Callable[[Any, Any, Any], None]) -> Iterator[None]:
        """Every operator is told of, with its arguments and what it returned."""
        self.shapes.observe = observe
        try:
            yield
        finally:
            self.shapes.observe = None

    @contextmanager
    def without_content(self) -> Iterator[None]:
        """Integers have no content either."""
        self.shapes.keeps_content = False
        try:
            yield
        finally:
            self.shapes.keeps_content = True

    def build_model(self, case: Case, workload: Workload, device: torch.device) -> PreTrainedModel:
        """In the place of `models.build_model`: the layers are split once they are built."""
        model = models.build_model(case, workload, device)
        if case.num_gpus > 1:
            if case.quantization != "bf16":
                raise Unavailable(
                    f"quantization={case.quantization!r} over {case.num_gpus} GPUs cannot be traced without them; "
                    "use num_gpus=1"
                )
            gpus = [torch.device("cuda", index) for index in range(case.num_gpus)]
            memory = [self._memory_bytes or _ENDLESS] * case.num_gpus
            self.split = Split(model, balanced(model, gpus, memory, torch.bfloat16))
        return model


@contextmanager
def _constructing(*arguments: Any, **named: Any) -> Iterator[None]:
    """In the place of accelerate's `init_empty_weights`: a model is constructed from real tensors, on the host."""
    with _disable_current_modes(), init_empty_weights(*arguments, **named):
        yield


@contextmanager
def as_on_a_gpu(memory_bytes: int | None = None) -> Iterator[AsOnGpu]:
    """
    Tensors without content, in a process that believes them to be real and on a GPU.

    - flash-attn is installed, and torch's attention chooses the kernel of a Hopper GPU, which is what this yields;
    - optimizers take lists of tensors at once;
    - who asks whether a tensor is fake is answered no, since real tensors would take another branch;
    - modules move and convert by new parameters, since one without content cannot be swapped;
    - layers are split over several GPUs by name.

    Args:
        memory_bytes: that a GPU has for weights, which decides how layers are split; None for as much as they need.
    """
    machine = AsOnGpu(memory_bytes)
    with ExitStack() as stack:
        patches: tuple[Any, ...] = (
            mock.patch.object(torch._subclasses, "FakeTensor", _Nothing),
            mock.patch.object(functional, "scaled_dot_product_attention", machine._attention),
            *(
                mock.patch.object(module, "_get_foreach_kernels_supported_devices", return_value=["cpu", "cuda"])
                for module in (foreach, optimizer)
            ),
            *(
                mock.patch.object(module, "_foreach_supported_types", [*module._foreach_supported_types, FakeTensor])
                for module in (foreach, optimizer)
            ),
            mock.patch.object(nn.Module, "_apply", _applied),
            mock.patch.object(models, "init_empty_weights", _constructing),
            mock.patch.object(training, "build_model", machine.build_model),
            mock.patch.dict(quantization._BACKENDS, quantized.backends(machine.without_content)),
        )
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(flash.installed())
        stack.enter_context(_products_of_a_gpu())
        machine.shapes = stack.enter_context(Shapes(quantized.implied))
        yield machine


def _products_of_a_gpu() -> AbstractContextManager[Any]:
    """LLM.int8() multiplies in 8 bits, which it does not on the CPU."""
    if find_spec("bitsandbytes") is None:
        return nullcontext()
    functions = importlib.import_module("bitsandbytes.autograd._functions")
    return mock.patch.object(functions, "MatMul8bitFp", functions.MatMul8bitLt)


class _Nothing:
    """No tensor is one of these."""


def _applied(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """As `nn.Module._apply`; a parameter that two modules share stays one."""
    made: dict[int, nn.Parameter] = {}
    for one in module.modules() if recurse else (module,):
        for name, parameter in one._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                with torch.no_grad():
                    changed: Any = function(parameter)
                if changed is not parameter:
                    changed = nn.Parameter(changed, parameter.requires_grad)
                made[id(parameter)] = changed
            one._parameters[name] = made[id(parameter)]
        for name, buffer in one._buffers.items():
            if buffer is not None:
                one._buffers[name] = function(buffer)
    return module
