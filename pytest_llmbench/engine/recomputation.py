"""
Which blocks of a model the backward pass runs again: what gradient checkpointing came to.

Counted on the modules within a block, since hooks of the block itself run outside the checkpoint in
transformers 5 and inside it before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from pytest_llmbench.engine.models.decoder import GradientCheckpointingLayer

__all__ = ["Recomputation"]


class Recomputation:
    """
    Watches the blocks of a model while a micro-batch runs within the context.

    A block counts if its output has a gradient. It is recomputed if the backward pass runs again the module
    of it that ran first: a checkpoint around a part of the block begins later, and a recomputation may stop early.
    A block without modules of its own cannot be told and is left out.

    Args:
        model: None for a model that is not known; nothing is watched then.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._own = {} if model is None else _own_modules(model)
        self._first: dict[nn.Module, nn.Module] = {}
        self._trained: set[nn.Module] = set()
        self._again: set[nn.Module] = set()
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        for block, modules in self._own.items():
            self._hooks.callback(block.register_forward_hook(self._ended).remove)
            for module in modules:
                begins = partial(self._begins, block)
                self._hooks.callback(module.register_forward_pre_hook(begins).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def __str__(self) -> str:
        """The count and the class of the blocks that were recomputed, as "32 of 32 LlamaDecoderLayer"."""
        return self._count(self._again) or "not recognised"

    def differs(self, *, asked: bool) -> str | None:
        """A sentence if blocks were not recomputed although that was *asked* for, or were although it was not."""
        blocks = self._blocks()
        if asked and not blocks <= self._again:
            told = self._count(blocks - self._again, blocks - self._again)
            return f"asked for gradient checkpointing, but the backward pass did not recompute {told}"
        if not asked and blocks & self._again:
            told = self._count(self._again, self._again)
            return f"asked for no gradient checkpointing, but the backward pass recomputed {told}"
        return None

    def _begins(self, block: nn.Module, module: nn.Module, _: Any) -> None:
        if not _in_backward():
            self._first.setdefault(block, module)
        elif self._first.get(block) is module:
            self._again.add(block)

    def _ended(self, block: nn.Module, _: Any, output: Any) -> None:
        if not _in_backward() and any(isinstance(one, Tensor) and one.requires_grad for one in _leaves(output)):
            self._trained.add(block)

    def _blocks(self) -> set[nn.Module]:
        return self._trained | self._again

    def _count(self, counted: set[nn.Module], named: set[nn.Module] | None = None) -> str:
        """The blocks of *counted* out of all, by class; only the classes of the blocks *named*."""
        of_all = Counter(map(_name, self._blocks()))
        of_some = Counter(map(_name, counted))
        shown = of_all if named is None else Counter(map(_name, named))
        return ", ".join(f"{of_some[name]} of {of_all[name]} {name}" for name in sorted(shown))


def _own_modules(model: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    """Each block that is to be checkpointed, with the modules in it that are in no block further in."""
    blocks = dict.fromkeys(_blocks_of(model))
    own = {block: list(_outside_of(blocks, block)) for block in blocks}
    return {block: modules for block, modules in own.items() if modules}


def _blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """
    Modules that transformers checkpoints, or that the model names as its layers.

    Some models name embeddings too, which are no blocks: those of a list alone are.
    """
    layers = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    listed = {child for module in model.modules() if isinstance(module, nn.ModuleList) for child in module}
    for module in model.modules():
        classes = {cls.__name__ for cls in type(module).__mro__}  # FSDP makes a subclass of a block's own
        if isinstance(module, GradientCheckpointingLayer) or (module in listed and classes & layers):
            yield module


def _outside_of(blocks: dict[nn.Module, None], module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if child not in blocks:
            yield child
            yield from _outside_of(blocks, child)


def _leaves(output: Any) -> list[Any]:
    leaves: list[Any] = _pytree.tree_leaves(output)
    return leaves


def _in_backward() -> bool:
    """Whether this thread runs a backward pass, as `torch.utils.checkpoint` asks itself."""
    return torch._C._current_graph_task_id() != -1


def _name(block: nn.Module) -> str:
    return type(block).__name__.removeprefix("FSDP")
