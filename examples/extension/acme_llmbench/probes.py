"""What measures a metric. Imported in measuring processes only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["count_saved_tensors"]


def count_saved_tensors(model: nn.Module | None, step: Callable[[], int]) -> float:
    """
    Args:
        model: None where a custom step shows none.
        step: runs one optimizer step and gives the number of its samples.
    """
    count = 0

    def save(tensor: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        samples = step()
    return count / samples
