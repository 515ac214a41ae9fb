"""flash-attn without its kernels: its shapes, its padding, its workspaces."""

from __future__ import annotations

import sys

import pytest
import torch

from pytest_llmbench.engine.fake import flash
from pytest_llmbench.engine.fake.shapes import Shapes

BATCH, LENGTH, HEADS, SIZE = 2, 40, 4, 64
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])


def test_attention_and_its_gradients_have_the_shapes_of_what_they_are_of() -> None:
    with Shapes():
        query = torch.empty(BATCH, LENGTH, HEADS, SIZE, dtype=torch.bfloat16, requires_grad=True)
        key, value = (torch.empty(BATCH, LENGTH, 2, SIZE, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        out = flash.flash_attn_func(query, key, value, causal=True)
        out.sum().backward()

    assert (out.shape, out.dtype) == (query.shape, query.dtype)
    assert [one.grad.shape for one in (query, key, value)] == [one.shape for one in (query, key, value)]


def test_packed_attention_and_its_gradients_have_the_shapes_of_what_they_are_of() -> None:
    starts = torch.tensor([0, 30, 70], dtype=torch.int32)
    with Shapes():
        query, key, value = (torch.empty(70, HEADS, SIZE, requires_grad=True) for _ in range(3))
        out = flash.flash_attn_varlen_func(query, key, value, starts, starts, 40, 40, causal=True)
        out.sum().backward()

    assert out.shape == query.shape
    assert [one.grad.shape for one in (query, key, value)] == [(70, HEADS, SIZE)] * 3


def test_padding_is_taken_out_and_put_back() -> None:
    rows = torch.arange(10.0).view(2, 5, 1)

    packed, numbers, starts, longest, lengths = flash.unpad_input(rows, MASK)

    assert packed.flatten().tolist() == [0, 1, 2, 3, 5, 6]
    assert (starts.tolist(), longest, lengths.tolist()) == ([0, 4, 6], 4, [4, 2])
    assert flash.pad_input(packed, numbers, 2, 5).flatten().tolist() == [0, 1, 2, 3, 0, 5, 6, 0, 0, 0]


def test_gradients_go_through_padding_both_ways() -> None:
    rows = torch.arange(10.0).view(2, 5, 1).requires_grad_()

    packed, numbers, *_ = flash.unpad_input(rows, MASK)
    (flash.pad_input(packed, numbers, 2, 5) * 3).sum().backward()

    assert rows.grad is not None
    assert rows.grad.flatten().tolist() == [3, 3, 3, 3, 0, 3, 3, 0, 0, 0]


def test_lengths_are_known_where_floats_are_not() -> None:
    with Shapes():
        packed, *_, longest, _lengths = flash.unpad_input(torch.empty(2, 5, 8), MASK)

    assert (packed.shape, longest) == ((6, 8), 4)


@pytest.mark.parametrize("operator", ["flash_attn::_flash_attn_forward", "aten::mm"])
def test_only_a_backward_kernel_takes_something_for_itself(operator: str) -> None:
    assert flash.workspace_bytes(operator, [torch.empty(BATCH, LENGTH, HEADS, SIZE)] * 5) == []


def test_gradients_of_each_head_come_before_those_of_a_group() -> None:
    query, key = torch.empty(1, 128, 4, 64), torch.empty(1, 128, 2, 64)
    operator = "flash_attn::_flash_attn_backward"

    alone, grouped = (flash.workspace_bytes(operator, [None, query, one]) for one in (query, key))

    assert grouped == [*alone, 4 * query.numel(), 4 * query.numel()]


def test_it_is_installed_only_meanwhile() -> None:
    was = sys.modules.get("flash_attn")

    with flash.installed():
        assert sys.modules["flash_attn"].__version__ == flash.VERSION

    assert sys.modules.get("flash_attn") is was
