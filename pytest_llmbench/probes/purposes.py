"""
What the storages of a training are for, told as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from pytest_llmbench.probes.storages import Event, Name, Role, Storages

__all__ = ["WORKSPACES", "Purpose", "PurposeOf", "Purposes"]

Purpose = Literal[
    "weights",
    "gradients",
    "optimizer state",
    "activations",
    "recomputed",
    "backward pass",
    "logits and loss",
    "optimizer step",
    "workspaces",
    "other",
]
"""
`activations` are what the forward pass makes, `recomputed` the same of blocks that are run again, `backward pass` is
what else that pass makes, `optimizer step` what an optimizer step makes and leaves not.
"""
PurposeOf = Mapping[tuple[Role, Name], Purpose]
"""By the role of a stretch, and the name of a storage that came in it."""
WORKSPACES: Purpose = "workspaces"


class Purposes(Storages):
    """
    Storages, and what each is for.

    Attributes:
        of: by the role of a stretch and the name of a storage within it.
        vocabulary: size of the last dimension by which logits are known; None if that is not known.
    """

    def __init__(self, *arguments: Any) -> None:
        self.of: dict[tuple[Role, Name], Purpose] = {}
        self.vocabulary: int | None = None
        self._is_stepping = False
        super().__init__(*arguments)

    def ran(self, operator: Any, args: Any, result: Any) -> None:
        before = len(self._stretch.events)
        super().ran(operator, args, result)
        for event in self._stretch.events[before:]:
            if event.size > 0:
                self.of[event.role, event.name] = self._purpose(event, result)

    def built(self, model: nn.Module | None) -> None:
        """Everything that a model holds is its weights; its vocabulary is known from now on."""
        if model is None:
            return
        self._are("weights", (*model.parameters(), *model.buffers()))
        found = getattr(getattr(model, "config", None), "vocab_size", None)
        self.vocabulary = found if isinstance(found, int) else None

    @contextmanager
    def optimizers_watched(self) -> Iterator[None]:
        """When an optimizer steps, the gradients are there; afterwards so is its state."""
        hooks = (register_optimizer_step_pre_hook(self._begin_step), register_optimizer_step_post_hook(self._end_step))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _begin_step(self, optimizer: Any, *_: Any) -> None:
        self._is_stepping = True
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._are("weights", trained)
        self._are("gradients", [one.grad for one in trained if one.grad is not None])

    def _end_step(self, optimizer: Any, *_: Any) -> None:
        self._is_stepping = False
        for state in optimizer.state.values():
            self._are("optimizer state", [one for one in state.values() if isinstance(one, Tensor)])

    def _are(self, purpose: Purpose, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if (found := self._alive.get(tensor.untyped_storage()._cdata)) is not None:
                stretch, position = found
                came = stretch.events[position]
                self.of[came.role, came.name] = purpose

    def _purpose(self, event: Event, result: Any) -> Purpose:
        if event.name[0].startswith("workspace of "):
            return WORKSPACES
        if event.role == "build":
            return "other"
        if event.role == "step" or self._is_stepping:
            return "optimizer step"
        if self.vocabulary is not None and self._is_over_vocabulary(result):
            return "logits and loss"
        if torch._C._current_autograd_node() is None:
            return "activations"
        return "recomputed" if torch.is_grad_enabled() else "backward pass"

    def _is_over_vocabulary(self, result: Any) -> bool:
        found = result if isinstance(result, (tuple, list)) else (result,)
        return any(isinstance(one, Tensor) and one.ndim > 0 and one.shape[-1] == self.vocabulary for one in found)
