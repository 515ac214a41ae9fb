"""
One fine-tuning set-up, ready to step: what a measured round runs, and nothing about measuring it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from pytest_llmbench.engine.adapters import attach
from pytest_llmbench.engine.batches import Batch, make_batches
from pytest_llmbench.engine.lengths import PUBLISHED, admissible, choose
from pytest_llmbench.engine.models import architecture_of, build_model, enable_checkpointing
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import Workload

__all__ = [
    "LEARNING_RATE",
    "MAX_GRAD_NORM",
    "SEED",
    "WEIGHT_DECAY",
    "FineTuning",
    "Training",
    "build_fine_tuning",
    "make_fine_tuning",
    "num_warmup_steps",
]

SEED = 42
MIN_MICRO_BATCHES = 4
"""Fewer would not let the longest sample so far grow as in a long run."""
MAX_GRAD_NORM = 0.5
WEIGHT_DECAY = 0.01
WARMUP_RATIO = 0.05
LEARNING_RATE = {"lora": 1e-4, "full": 2e-5}


class Training(Protocol):
    """What the rounds drive: micro-batches in a fixed order, and an optimizer step after every few."""

    batch_size: int
    accumulation_steps: int
    micro_batch_tokens: Sequence[int]
    """What each micro-batch of the measured rounds costs, padding included: whole optimizer steps."""
    model: nn.Module | None
    optimizer: object | None

    def micro_step(self, index: int) -> StepResult:
        """Forward and backward of one micro-batch, by its index in `micro_batch_tokens`."""

    def optimizer_step(self) -> Tensor | None:
        """Apply the accumulated gradients; the gradient norm before clipping, if there is one."""


class FineTuning:
    """
    The bare training step of the published page: least between the libraries and the clock.

    AdamW, linear schedule with warm-up, gradients clipped to norm 0.5, mean loss over the
    accumulated micro-batches.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch], case: Case, total_optimizer_steps: int) -> None:
        from transformers import get_linear_schedule_with_warmup

        self.model = model
        self.batch_size = case.batch_size
        self.accumulation_steps = case.accumulation_steps
        self.micro_batch_tokens: Sequence[int] = [batch.input_ids.numel() for batch in batches]
        self.batches = batches
        self.total_optimizer_steps = total_optimizer_steps
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = AdamW(self._trained, lr=LEARNING_RATE[case.tuner], weight_decay=WEIGHT_DECAY)
        warm_up_steps = num_warmup_steps(total_optimizer_steps)
        self._schedule = get_linear_schedule_with_warmup(self.optimizer, warm_up_steps, total_optimizer_steps)

    def micro_step(self, index: int) -> StepResult:
        batch = self.batches[index]
        # Only the loss is kept, so that the logits are freed before the backward pass, as under a Trainer.
        loss: Tensor = self.model(**batch.inputs()).loss
        (loss / self.accumulation_steps).backward()
        return StepResult(batch.samples, batch.tokens, loss.detach())

    def optimizer_step(self) -> Tensor:
        norm = nn.utils.clip_grad_norm_(self._trained, MAX_GRAD_NORM)
        self.optimizer.step()
        self._schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def build_fine_tuning(case: Case, workload: Workload, device: torch.device) -> FineTuning:
    """
    Model with random weights, adapters, batches and optimizer on *device*.

    With several GPUs, *device* is the first: the batches are there, and the layers on all of them.

    Raises:
        Unavailable: a part of the case cannot be built here.
        DoesNotFit: the weights exceed the memory of the GPUs together.
    """
    torch.manual_seed(SEED)
    architecture = architecture_of(case.model, workload.scale)
    model = attach(build_model(case, workload, device), case, architecture)
    if case.gradient_checkpointing:
        enable_checkpointing(model)
    return make_fine_tuning(model, case, workload, device)


def make_fine_tuning(
    model: nn.Module, case: Case, workload: Workload, device: torch.device, *, rank: int = 0
) -> FineTuning:
    """
    Batches and optimizer for a *model* that is ready to train.

    The batches of every *rank* have the same lengths, and tokens of their own: no rank waits for
    another because its samples are shorter.
    """
    kept = len(admissible(PUBLISHED, case.max_length, workload.scale)) // case.num_ranks
    count = _num_samples(case, workload, kept)
    lengths = choose(PUBLISHED, case.max_length, workload.scale, count=count, batch_size=case.batch_size, seed=SEED)
    vocab_size = architecture_of(case.model, workload.scale).vocab_size
    batches = make_batches(lengths, case.batch_size, vocab_size, device, seed=SEED + rank)
    return FineTuning(model, batches, case, kept // (case.batch_size * case.accumulation_steps))


def num_warmup_steps(total_optimizer_steps: int) -> int:
    """Optimizer steps in which the learning rate rises."""
    return math.ceil(WARMUP_RATIO * total_optimizer_steps)


def _num_samples(case: Case, workload: Workload, kept: int) -> int:
    """Whole optimizer steps: asked-for samples are rounded up (to a few micro-batches at least), a whole epoch down."""
    per_step = case.batch_size * case.accumulation_steps
    if workload.samples == "full":
        return max(kept // per_step, 1) * per_step
    asked = max(workload.samples, MIN_MICRO_BATCHES * case.batch_size)
    return math.ceil(asked / per_step) * per_step
