"""Which of torch's attention kernels a Hopper GPU would run, and what they take for themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytest_llmbench.engine.fake.gpu import AsOnGpu, as_on_a_gpu
from pytest_llmbench.engine.fake.kernels import workspace_bytes

BATCH, HEADS, LENGTH = 2, 4, 33


@pytest.fixture(autouse=True)
def gpu() -> Iterator[AsOnGpu]:
    with as_on_a_gpu() as machine:
        yield machine


def heads(size: int = 64, dtype: torch.dtype = torch.bfloat16, count: int = HEADS) -> Tensor:
    return torch.empty(BATCH, count, LENGTH, size, dtype=dtype, requires_grad=True)


def mask() -> Tensor:
    return torch.ones(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool)


def ran(gpu: AsOnGpu, size: int = 64, dtype: torch.dtype = torch.bfloat16, **arguments: Any) -> str:
    """The kernel, without what all of them are called."""
    functional.scaled_dot_product_attention(*(heads(size, dtype) for _ in range(3)), **arguments)
    (name,) = gpu.kernels
    return name.removeprefix("_scaled_dot_product_").removesuffix("_attention")


@pytest.mark.parametrize(
    ("size", "dtype", "kernel"),
    [
        pytest.param(64, torch.bfloat16, "cudnn", id="half"),
        pytest.param(128, torch.float16, "cudnn", id="the-largest-of-cudnn"),
        pytest.param(136, torch.bfloat16, "flash", id="larger"),
        pytest.param(256, torch.bfloat16, "flash", id="the-largest-of-flash"),
        pytest.param(264, torch.bfloat16, "efficient", id="larger-than-that"),
        pytest.param(64, torch.float32, "efficient", id="single"),
    ],
)
def test_the_kernel_depends_on_heads_and_dtype(gpu: AsOnGpu, size: int, dtype: torch.dtype, kernel: str) -> None:
    assert ran(gpu, size, dtype, is_causal=True) == kernel


def test_a_mask_keeps_flash_from_running(gpu: AsOnGpu) -> None:
    assert ran(gpu, 256, attn_mask=mask()) == "efficient"


@pytest.mark.parametrize(
    ("backend", "kernel"),
    [
        (SDPBackend.CUDNN_ATTENTION, "cudnn"),
        (SDPBackend.FLASH_ATTENTION, "flash"),
        (SDPBackend.EFFICIENT_ATTENTION, "efficient"),
        (SDPBackend.MATH, "attention_math"),
    ],
)
def test_a_kernel_that_is_pinned_runs(gpu: AsOnGpu, backend: SDPBackend, kernel: str) -> None:
    with sdpa_kernel(backend):
        assert ran(gpu, is_causal=True) == kernel


def test_no_kernel_is_made_up_where_the_pinned_one_cannot_run(gpu: AsOnGpu) -> None:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError, match="No available kernel"):
        ran(gpu, dtype=torch.float32)


@pytest.mark.parametrize("backend", [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])  # fmt: skip
@pytest.mark.parametrize("of_groups", [False, True], ids=["heads", "groups"])
def test_each_kernel_gives_a_result_and_gradients_of_the_right_shapes(backend: SDPBackend, *, of_groups: bool) -> None:
    query, key, value = heads(), *(heads(count=2 if of_groups else HEADS) for _ in range(2))

    with sdpa_kernel(backend):
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=of_groups)
    out.sum().backward()

    assert out.shape == query.shape
    assert [one.grad.shape for one in (query, key, value)] == [one.shape for one in (query, key, value)]


def test_a_mask_can_be_given_to_kernels_that_take_one() -> None:
    query = heads()

    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(backend):
            out = functional.scaled_dot_product_attention(query, query, query, attn_mask=mask())
        assert out.shape == query.shape


def test_a_forward_kernel_takes_nothing_for_itself() -> None:
    assert workspace_bytes("aten::_scaled_dot_product_flash_attention", [heads()]) == []


@pytest.mark.parametrize("kernel", ["flash", "cudnn"])
def test_a_backward_kernel_takes_more_for_longer_samples(kernel: str) -> None:
    name = f"aten::_scaled_dot_product_{kernel}_attention_backward"
    short, long = (torch.empty(1, HEADS, length, 64) for length in (128, 256))

    assert sum(workspace_bytes(name, [None, long])) == 2 * sum(workspace_bytes(name, [None, short])) > 0
