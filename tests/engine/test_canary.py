"""The canary: what a GPU reaches in a matrix product and a copy, and that it is the same twice."""

from __future__ import annotations

import pytest
import torch

from pytest_llmbench.probes.canary import sing
from pytest_llmbench.worker.devices import Devices

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.hardware
@needs_gpu
def test_a_canary_sings_the_same_twice() -> None:
    first, second = sing(0), sing(0)

    assert second.matmul_flops_per_second == pytest.approx(first.matmul_flops_per_second, rel=0.05)
    assert second.copy_bytes_per_second == pytest.approx(first.copy_bytes_per_second, rel=0.05)


@pytest.mark.hardware
@needs_gpu
def test_a_canary_leaves_no_memory_allocated() -> None:
    before = torch.cuda.memory_allocated()
    sing(0)

    assert torch.cuda.memory_allocated() - before < 64 * 2**20  # the workspace of cuBLAS


def test_on_the_cpu_there_is_none_and_the_reason() -> None:
    assert list(Devices("cpu", 1).canary()) == [
        ("canary_flops_per_second", None, "measured on the CPU"),
        ("canary_copy_bytes_per_second", None, "measured on the CPU"),
    ]
