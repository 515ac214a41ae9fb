"""Which blocks the backward pass ran again, and what becomes of a case whose checkpointing is not as it asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pytest_llmbench.engine.recomputation import Recomputation
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.worker.measure import measure

pytestmark = pytest.mark.versions

SMOKE = Workload(scale="smoke", device="cpu", samples=4)


def process_of(case: Case) -> Process:
    [process] = measure(Request(case=case, workload=SMOKE), lambda _: None).processes
    return process


@pytest.fixture(name="switched_off")
def _switched_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes transformers leave the checkpointing of so many of two blocks away, the first ones of a model."""
    from transformers import PreTrainedModel

    as_it_was = PreTrainedModel._set_gradient_checkpointing

    def switch_off(count: int) -> None:
        calls = itertools.count()

        def enable(self: Any, *, gradient_checkpointing_func: Any, **options: Any) -> None:
            # Blocks call it, and the model did for them in transformers before GradientCheckpointingLayer.
            def some(function: Any, *args: Any) -> Any:
                return function(*args) if next(calls) % 2 < count else gradient_checkpointing_func(function, *args)

            as_it_was(self, gradient_checkpointing_func=some, **options)

        monkeypatch.setattr(PreTrainedModel, "_set_gradient_checkpointing", enable)

    return switch_off


ROWS = {
    "own": (Case(model="qwen-7b-chat", attention="sdpa"), "QwenBlock"),
    "transformers": (Case(model="yi-6b-chat", attention="sdpa"), "LlamaDecoderLayer"),
    "trainer": (Case(model="yi-6b-chat", attention="sdpa", loop="trainer"), "LlamaDecoderLayer"),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_that_its_blocks_were_recomputed(row: str) -> None:
    case, name = ROWS[row]

    process = process_of(case)

    assert (process.outcome, process.ran["checkpointing"]) == ("ok", f"2 of 2 {name}")


@pytest.mark.parametrize("row", ROWS)
def test_checkpointing_that_is_silently_off_makes_the_row_invalid(
    row: str, switched_off: Callable[[int], None]
) -> None:
    switched_off(2)
    case, name = ROWS[row]

    process = process_of(case)

    assert (process.outcome, process.reason) == (
        "invalid",
        f"asked for gradient checkpointing, but the backward pass did not recompute 2 of 2 {name}",
    )


def test_one_block_of_several_that_is_not_recomputed_makes_the_row_invalid(switched_off: Callable[[int], None]) -> None:
    switched_off(1)

    process = process_of(Case(model="yi-6b-chat", attention="sdpa"))

    assert process.outcome == "invalid"
    assert str(process.reason).endswith("did not recompute 1 of 2 LlamaDecoderLayer")


def test_a_row_without_checkpointing_says_so_and_is_ok() -> None:
    process = process_of(Case(model="qwen-7b-chat", attention="sdpa", gradient_checkpointing=False))

    assert (process.outcome, process.ran["checkpointing"]) == ("ok", "0 of 2 QwenBlock")


def test_checkpointing_that_nobody_asked_for_makes_the_row_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    monkeypatch.setattr(LlamaDecoderLayer, "__call__", _checkpointed)

    process = process_of(Case(model="yi-6b-chat", attention="sdpa", gradient_checkpointing=False))

    assert (process.outcome, process.reason) == (
        "invalid",
        "asked for no gradient checkpointing, but the backward pass recomputed 2 of 2 LlamaDecoderLayer",
    )


def _checkpointed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return checkpoint(partial(nn.Module.__call__, block), *args, use_reentrant=False, **kwargs)


class Inner(nn.Module):  # type: ignore[misc] # torch is not looked at
    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.again = again

    def forward(self, x: Any) -> Any:
        return checkpoint(self.inside, x, use_reentrant=False) if self.again else self.inside(x)

    def inside(self, x: Any) -> Any:
        return self.linear(x).relu()


class Outer(Inner):
    def __init__(self, *, again: bool, inner_again: bool) -> None:
        super().__init__(again=again)
        self.layers = nn.ModuleList([Inner(again=inner_again)])

    def inside(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(self.linear(x))
        return x


class Nested(nn.Module):  # type: ignore[misc]
    _no_split_modules = ("Inner", "Outer", "Partly", "Embedding")

    def __init__(self, *, again: bool, inner_again: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.layers = nn.ModuleList([Outer(again=again, inner_again=inner_again)])

    def forward(self, ids: Any) -> Any:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return x


def watched(model: nn.Module) -> Recomputation:
    with Recomputation(model) as blocks:
        model(torch.tensor([0, 1])).sum().backward()
    return blocks


def test_nested_blocks_that_are_both_checkpointed_are_both_recomputed() -> None:
    blocks = watched(Nested(again=True, inner_again=True))

    assert (str(blocks), blocks.differs(asked=True)) == ("1 of 1 Inner, 1 of 1 Outer", None)


def test_of_nested_blocks_the_outer_one_is_not_recomputed_by_the_inner_one() -> None:
    blocks = watched(Nested(again=False, inner_again=True))

    assert str(blocks.differs(asked=True)).endswith("did not recompute 1 of 1 Outer")


def test_a_model_whose_blocks_are_not_known_says_so_and_is_not_invalid() -> None:
    blocks = watched(nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4)))

    assert (str(blocks), blocks.differs(asked=True)) == ("not recognised", None)


class Partly(Inner):
    """Checkpoints what comes after its first module."""

    def __init__(self) -> None:
        super().__init__(again=False)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Any) -> Any:
        return checkpoint(self.inside, self.norm(x), use_reentrant=False)


def test_a_block_of_which_only_a_part_is_recomputed_is_not() -> None:
    model = Nested(again=True, inner_again=True)
    model.layers = nn.ModuleList([Partly()])

    assert str(watched(model).differs(asked=True)).endswith("did not recompute 1 of 1 Partly")


def test_a_block_that_no_gradient_reaches_need_not_be_recomputed() -> None:
    model = Nested(again=True, inner_again=True).requires_grad_(False)
    frozen = Inner(again=True).requires_grad_(False)
    model.layers = nn.ModuleList([frozen])
    head = nn.Linear(4, 4)

    with Recomputation(model) as blocks:
        head(model(torch.tensor([0, 1]))).sum().backward()

    assert blocks.differs(asked=True) is None


def test_no_hook_is_left_behind() -> None:
    model = Nested(again=True, inner_again=True)

    watched(model)

    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
