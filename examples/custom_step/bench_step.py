"""A training step of one's own, as `Case.custom("bench_step:build", name=...)` asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llmbench import StepResult

if TYPE_CHECKING:
    import torch

SAMPLES = 8
FEATURES = 64


class Step:
    """One call trains on one micro-batch: forward, backward, optimizer."""

    def __init__(self, device: torch.device) -> None:
        # Imported here, so that a test can import this module in an environment without torch.
        import torch

        torch.manual_seed(0)
        layers = [torch.nn.Linear(FEATURES, 256), torch.nn.GELU(), torch.nn.Linear(256, 1)]
        self.model = torch.nn.Sequential(*layers).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self._inputs = torch.randn(SAMPLES, FEATURES, device=device)
        self._targets = self._inputs.sum(dim=1, keepdim=True)

    def __call__(self) -> StepResult:
        loss = (self.model(self._inputs) - self._targets).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepResult(samples=SAMPLES, loss=loss.detach())


def build(device: torch.device) -> Step:
    """Called once, in the measuring process, before the clock starts."""
    return Step(device)
