"""
What one training step tells the rounds: how much it did, and its loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StepResult"]


class StepResult(NamedTuple):
    """What one micro-batch did."""

    samples: int
    tokens: int | None = None
    """Padding left out; None if the step does not count them."""
    loss: Tensor | None = None
    """Detached scalar on the device, so that reading it can wait until after the round."""
