"""
Layers of one model on several GPUs, where all tensors are traced as those of one device.

What an operator returns is where its inputs are, and a copy at the border between two GPUs is where it is copied to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pytest_llmbench.engine.placement import Placement

__all__ = ["Split"]


class Split:
    """
    Where the tensors of a model are.

    Args:
        model: gets hooks that bring the inputs of a module to its GPU, and the outputs of all to the first one.
        placement: which of its modules are on which GPU.
    """

    def __init__(self, model: nn.Module, placement: Placement) -> None:
        self._copying_to: int | None = None
        self._gpus: dict[int, int] = {}
        """By the identity of a storage."""
        self._modules: list[tuple[nn.Module, int]] = []
        for name, device in placement.items():
            module, gpu = model.get_submodule(name), device.index or 0
            self._modules.append((module, gpu))
            module.register_forward_pre_hook(self._bringing(gpu), with_kwargs=True)
        first = self._modules[0][1]
        model.register_forward_hook(lambda _module, _given, output: self._brought(output, first))

    def weights(self) -> Iterator[tuple[Tensor, int]]:
        """Each parameter and buffer, adapters included, and its GPU."""
        for module, gpu in self._modules:
            for tensor in (*module.parameters(), *module.buffers()):
                yield tensor, gpu

    def gpu_of(self, arguments: Any, position: int) -> int:
        """
        The GPU of what an operator returns.

        Args:
            arguments: of the operator.
            position: of the tensor among those that it returns; lists are worked on element by element.
        """
        if self._copying_to is not None:
            return self._copying_to
        for argument in arguments:
            is_list = isinstance(argument, (tuple, list)) and argument
            one = argument[min(position, len(argument) - 1)] if is_list else argument
            if isinstance(one, Tensor):
                found = self._gpus.get(one.untyped_storage()._cdata)
                if found is not None:
                    return found
        return 0

    def note(self, storage: int, gpu: int) -> None:
        """A storage is on a GPU."""
        self._gpus[storage] = gpu

    def forget(self, storage: int) -> None:
        """A storage is gone."""
        self._gpus.pop(storage, None)

    def copied(self, tensor: Tensor, gpu: int) -> Tensor:
        """A copy on another GPU."""
        before, self._copying_to = self._copying_to, gpu
        try:
            return torch.ops.aten._to_copy(tensor)
        finally:
            self._copying_to = before

    def _bringing(self, gpu: int) -> Callable[..., Any]:
        return lambda _module, given, named: (self._brought(given, gpu), self._brought(named, gpu))

    def _brought(self, value: Any, gpu: int) -> Any:
        return tree_map_only(Tensor, lambda tensor: self._to(tensor, gpu), value)

    def _to(self, tensor: Tensor, gpu: int) -> Tensor:
        here = self._gpus.get(tensor.untyped_storage()._cdata, 0)
        if here == gpu:
            return tensor
        copied: Tensor = _Copied.apply(tensor, self, here, gpu)
        return copied


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, split: Split, source: int, target: int) -> Tensor:
        ctx.split, ctx.source = split, source
        return split.copied(tensor, target)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return ctx.split.copied(grad, ctx.source), None, None, None
