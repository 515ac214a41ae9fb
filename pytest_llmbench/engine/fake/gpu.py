"""
What libraries find on a GPU, put in by name where tensors without content are traced as those of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _foreach_utils as foreach

from pytest_llmbench.engine import models
from pytest_llmbench.engine.fake import flash, kernels
from pytest_llmbench.engine.fake.kernels import Chosen
from pytest_llmbench.engine.fake.shapes import Shapes

__all__ = ["AsOnGpu", "as_on_a_gpu"]


class AsOnGpu:
    """What was put in for a GPU."""

    def __init__(self) -> None:
        self._attention = Chosen()
        self._on_host = 0

    @property
    def kernels(self) -> set[str]:
        """Of torch's attention, those that would have run."""
        return self._attention.names

    @property
    def told(self) -> str:
        """What is imitated, in words."""
        return f"flash-attn {flash.VERSION}, torch's attention kernels of a Hopper GPU"

    def workspace_bytes(self, operator: str, arguments: Sequence[Any]) -> list[int]:
        """What a kernel takes for itself while it runs."""
        return flash.workspace_bytes(operator, arguments) or kernels.workspace_bytes(operator, arguments)

    def gpu_now(self) -> int | None:
        """The GPU on which an operator would run; None for the host."""
        return None if self._on_host else 0

    @contextmanager
    def constructing(self, *arguments: Any, **named: Any) -> Iterator[None]:
        """In the place of accelerate's `init_empty_weights`: what is drawn on the host first takes none of the GPU."""
        self._on_host += 1
        try:
            with init_empty_weights(*arguments, **named):
                yield
        finally:
            self._on_host -= 1


@contextmanager
def as_on_a_gpu() -> Iterator[AsOnGpu]:
    """
    Tensors without content, in a process that believes them to be real and on a GPU.

    - flash-attn is installed, and torch's attention chooses the kernel of a Hopper GPU, which is what this yields;
    - optimizers take lists of tensors at once;
    - who asks whether a tensor is fake is answered no, since real tensors would take another branch;
    - modules move and convert by new parameters, since one without content cannot be swapped.
    """
    machine = AsOnGpu()
    with ExitStack() as stack:
        for patch in (
            mock.patch.object(torch._subclasses, "FakeTensor", _Nothing),
            mock.patch.object(functional, "scaled_dot_product_attention", machine._attention),
            mock.patch.object(foreach, "_get_foreach_kernels_supported_devices", return_value=["cpu", "cuda"]),
            mock.patch.object(nn.Module, "_apply", _applied),
            mock.patch.object(models, "init_empty_weights", machine.constructing),
        ):
            stack.enter_context(patch)
        stack.enter_context(flash.installed())
        stack.enter_context(Shapes())
        yield machine


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
