"""
Running optimizer steps with something watching: in our own plain loop, or in one that a training brings along.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pytest_llmbench.engine.training import Training
from pytest_llmbench.schema.step import StepResult

__all__ = ["AnyTraining", "Ran", "SelfDriven", "Watch", "drive", "run_steps"]


class Watch:
    """What is told of a run, as it comes to pass; each of these does nothing by itself."""

    def step_begins(self) -> None:
        """Before the batches of an optimizer step are fetched."""

    def micro_batch_begins(self) -> None:
        """Before a forward pass."""

    def micro_batch_ended(self, result: StepResult) -> None:
        """After a backward pass; the losses of self-driven trainings come with `Ran` only."""

    def gradients_ready(self) -> None:
        """After all micro-batches of the step, before the gradients are clipped."""

    def step_ended(self) -> None:
        """After the optimizer step, its gradients set to none."""


class Ran(NamedTuple):
    """What a run left behind; tensors are still on the device."""

    losses: tuple[Tensor, ...]
    """One per micro-batch, its mean over the tokens that have one; none where the step has no loss."""
    grad_norm: Tensor | None
    """Of the last optimizer step, before clipping."""


class SelfDriven(abc.ABC):
    """
    A training with a loop of its own, which can be watched and not driven.

    Args:
        training: what it drives; the attributes are those of `Training`.
    """

    def __init__(self, training: AnyTraining) -> None:
        self.batch_size: int = training.batch_size
        self.accumulation_steps: int = training.accumulation_steps
        self.micro_batch_tokens: Sequence[int] = training.micro_batch_tokens
        self.model: nn.Module | None = training.model
        self.optimizer: object | None = training.optimizer

    @abc.abstractmethod
    def run(self, steps: Sequence[Sequence[int]], watch: Watch) -> Ran:
        """
        Run optimizer steps, each over the micro-batches of these indices.

        All steps have the same number of micro-batches, whether it is `accumulation_steps` or not.
        """


AnyTraining = Training | SelfDriven


def run_steps(training: AnyTraining, steps: Sequence[Sequence[int]], watch: Watch) -> Ran:
    """Run optimizer steps, each over the micro-batches of these indices, in the training's own loop if it has one."""
    return training.run(steps, watch) if isinstance(training, SelfDriven) else drive(training, steps, watch)


def drive(training: Training, steps: Sequence[Sequence[int]], watch: Watch) -> Ran:
    """Our own plain loop: whatever it calls within a step is counted with the step."""
    losses: list[Tensor] = []
    grad_norm: Tensor | None = None
    for step in steps:
        watch.step_begins()
        for index in step:
            watch.micro_batch_begins()
            result = training.micro_step(index)
            if result.loss is not None:
                losses.append(result.loss)
            watch.micro_batch_ended(result)
        watch.gradients_ready()
        grad_norm = training.optimizer_step()
        watch.step_ended()
    return Ran(tuple(losses), grad_norm)
