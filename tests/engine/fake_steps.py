"""Training steps that are traced on tensors without content; see `test_fake`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytest_llmbench.schema.step import StepResult

WIDTH, ROWS = 256, 1024
BYTES = 4 * WIDTH * ROWS
"""Of one activation."""


class Block(nn.Module):  # type: ignore[misc]  # where torch is not installed
    """
    Args:
        copies: clones that are alive at once, beyond what a step needs.
        checkpointed: whether the activation is computed again.
    """

    def __init__(self, copies: int = 0, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.copies = copies
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpointed:
            return checkpoint(self.activated, x, use_reentrant=False)  # type: ignore[no-any-return]
        return self.activated(x)

    def activated(self, x: Tensor) -> Tensor:
        for _ in range(self.copies):
            x = x.clone()
        return self.linear(x).sin().cos()


def plain(device: torch.device, copies: int = 0, checkpointed: bool = False) -> Callable[[], StepResult]:
    """A few blocks and an optimizer of the step's own, without an attribute that tells of them."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(copies if index == 1 else 0, checkpointed=checkpointed) for index in range(3)))
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = torch.randn(ROWS, WIDTH, device=device)

    def step() -> StepResult:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return StepResult(ROWS, 7 * ROWS, loss.detach())

    return step


class Accumulating:
    """An optimizer step every few calls, and a model that is known."""

    accumulation_steps = 3

    def __init__(self, device: torch.device) -> None:
        self.model = Block().to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self._x = torch.randn(ROWS, WIDTH, device=device)
        self._calls = 0

    def __call__(self) -> int:
        self.model(self._x).sum().backward()
        self._calls += 1
        if self._calls % self.accumulation_steps == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return ROWS


class OfManySizes:
    """A batch of another length at each call, every third of which takes another way."""

    def __init__(self, device: torch.device, largest: int) -> None:
        self._model = nn.Linear(WIDTH, WIDTH, device=device)
        self._largest = largest
        self._calls = 0

    def __call__(self) -> int:
        self._calls += 1
        rows = self._largest if self._calls % 7 == 0 else 64 * (self._calls % 5 + 1)
        out = self._model(torch.randn(rows, WIDTH))
        (out.sin() if self._calls % 3 else out).sum().backward()
        self._model.zero_grad()
        return rows


def asking(device: torch.device, what: str) -> Callable[[], int]:
    """A step that needs to know a value which is not there."""
    weight = nn.Parameter(torch.randn(4, 4, device=device))

    def step() -> int:
        x = weight.sin()
        _ASKING[what](x)
        return 1

    return step


def _branches(x: Tensor) -> Any:
    if x.sum() > 0:
        return x.sum()
    return None


_ASKING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "if": _branches,
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: torch.nonzero(x > 0),
    "numpy": lambda x: x.detach().numpy().sum(),
    "operator": lambda x: torch.ops.fake_steps.no_shape(x),
}

_library = torch.library.Library("fake_steps", "FRAGMENT")
if not hasattr(torch.ops.fake_steps, "no_shape"):
    _library.define("no_shape(Tensor x) -> Tensor")
    _library.impl("no_shape", lambda x: x.clone(), "CPU")


def looping(device: torch.device) -> Callable[[], int]:
    """A step of a loop over tokens, so to speak."""
    x = torch.randn(4, device=device)

    def step() -> int:
        while True:
            x.sin()

    return step


def mistaken(device: torch.device) -> Callable[[], int]:
    """A step that cannot run anywhere."""

    def step() -> int:
        torch.randn(2, 3, device=device) @ torch.randn(2, 3, device=device)
        return 1

    return step
