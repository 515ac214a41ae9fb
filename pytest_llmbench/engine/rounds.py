"""
Driving a training: warm up, run timed rounds of whole optimizer steps, run the passes that count.

Pure control flow over a `Training`, a clock and a way to wait for the device.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from pytest_llmbench.engine.training import Training
from pytest_llmbench.measurement import Round

__all__ = ["MAX_ROUNDS", "WARM_UP_MICRO_BATCHES", "Trail", "counted_micro_batches", "run_rounds", "warm_up"]

WARM_UP_MICRO_BATCHES = 4
COUNTED_MICRO_BATCHES = 4
MAX_ROUNDS = 4


class Trail(NamedTuple):
    """What the rounds left behind; tensors are still on the device."""

    rounds: tuple[Round, ...]
    losses: tuple[Tensor, ...]
    """One per micro-batch, or none where the step has no loss."""
    grad_norm: Tensor | None
    """Of the last optimizer step."""


def warm_up(training: Training, synchronise: Callable[[], None]) -> float:
    """
    Run the first micro-batches and one optimizer step; the seconds of the very first micro-batch.

    Kernels load, libraries tune, the allocator grows and the optimizer state appears here.
    """
    started = time.perf_counter()
    training.micro_step(0)
    synchronise()
    first_step_seconds = time.perf_counter() - started
    for index in range(1, min(WARM_UP_MICRO_BATCHES, len(training.micro_batch_tokens))):
        training.micro_step(index)
    training.optimizer_step()
    synchronise()
    return first_step_seconds


def run_rounds(
    training: Training, synchronise: Callable[[], None], on_round: Callable[[Round], None] = lambda _: None
) -> Trail:
    """
    Run every micro-batch once, in at most `MAX_ROUNDS` rounds of whole optimizer steps.

    A round is timed by the host clock from one synchronisation to the next; nothing waits for the
    device inside it, and the garbage collector is off.
    """
    rounds: list[Round] = []
    losses: list[Tensor] = []
    grad_norm: Tensor | None = None
    with _collector_off():
        for steps in _rounds(training):
            samples = tokens = 0
            synchronise()
            started = time.perf_counter()
            for step in steps:
                for index in step:
                    result = training.micro_step(index)
                    samples += result.samples
                    tokens += result.tokens or 0
                    if result.loss is not None:
                        losses.append(result.loss)
                grad_norm = training.optimizer_step()
            synchronise()
            rounds.append(Round(time.perf_counter() - started, samples, tokens))
            on_round(rounds[-1])
    return Trail(tuple(rounds), tuple(losses), grad_norm)


def counted_micro_batches(training: Training, count: int = COUNTED_MICRO_BATCHES) -> tuple[int, ...]:
    """Micro-batches at equally spaced quantiles of cost, for the passes that count: they stand for all."""
    by_cost = sorted(range(len(training.micro_batch_tokens)), key=training.micro_batch_tokens.__getitem__)
    count = min(count, len(by_cost))
    return tuple(by_cost[(2 * position + 1) * len(by_cost) // (2 * count)] for position in range(count))


def _rounds(training: Training) -> list[list[range]]:
    """Micro-batch indices by optimizer step, by round."""
    size = training.accumulation_steps
    steps = [range(start, start + size) for start in range(0, len(training.micro_batch_tokens), size)]
    num_rounds = min(MAX_ROUNDS, len(steps))
    bounds = [len(steps) * position // num_rounds for position in range(num_rounds + 1)]
    return [steps[low:high] for low, high in itertools.pairwise(bounds)]


@contextmanager
def _collector_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
