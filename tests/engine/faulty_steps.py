"""Training steps that ruin what they run on; see `test_hardware_faults`."""

from __future__ import annotations

from collections.abc import Callable

import torch


def index_out_of_range(device: torch.device) -> Callable[[], int]:
    """An assertion on the GPU fails, after which every call of CUDA in this process does."""
    table, index = torch.zeros(4, device=device), torch.tensor([9], device=device)

    def step() -> int:
        table[index].sum()
        return 1

    return step


def kernel_without_end(device: torch.device) -> Callable[[], int]:
    """A kernel that spins for an hour."""

    def step() -> int:
        torch.cuda._sleep(3600 * 2 * 10**9)
        return 1

    return step


def multiplication(device: torch.device) -> Callable[[], int]:
    """Nothing is wrong with this one."""
    one = torch.ones(256, 256, device=device)

    def step() -> int:
        one @ one
        return 1

    return step
