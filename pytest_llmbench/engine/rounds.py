"""
Driving a training: warm up, run timed rounds of whole optimizer steps, run the passes that count.

Pure control flow over a training, a clock and a way to wait for the device.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from pytest_llmbench.engine.loop import AnyTraining, Watch, run_steps
from pytest_llmbench.schema.measurement import Round
from pytest_llmbench.schema.step import StepResult

__all__ = [
    "COUNTED_MICRO_BATCHES",
    "MAX_ROUNDS",
    "WARM_UP_MICRO_BATCHES",
    "Trail",
    "by_cost",
    "cheapest_and_costliest",
    "collector_off",
    "counted_micro_batches",
    "run_rounds",
    "warm_up",
]

WARM_UP_MICRO_BATCHES = 4
COUNTED_MICRO_BATCHES = 4
MAX_ROUNDS = 4


class Trail(NamedTuple):
    """What the rounds left behind; tensors are still on the device."""

    rounds: tuple[Round, ...]
    micro_batches: int
    """How many the rounds had, together."""
    losses: tuple[Tensor, ...]
    """One per micro-batch, or none where the step has no loss."""
    grad_norm: Tensor | None
    """Of the last optimizer step."""


def warm_up(training: AnyTraining, synchronise: Callable[[], None]) -> float:
    """
    Run the first micro-batches and one optimizer step; the seconds of the very first micro-batch.

    Kernels load, libraries tune, the allocator grows and the optimizer state appears here.
    """
    watch = _FirstMicroBatch(synchronise)
    run_steps(training, [range(min(WARM_UP_MICRO_BATCHES, len(training.micro_batch_tokens)))], watch)
    synchronise()
    return watch.seconds


def run_rounds(
    training: AnyTraining, synchronise: Callable[[], None], on_round: Callable[[Round], None] = lambda _: None
) -> Trail:
    """
    Run every micro-batch once, in at most `MAX_ROUNDS` rounds of whole optimizer steps.

    A round is timed by the host clock from one synchronisation to the next; nothing waits for the
    device inside it, and the garbage collector is off.
    """
    rounds = _rounds(training)
    watch = _Timed([len(steps) for steps in rounds], synchronise, on_round)
    with collector_off():
        ran = run_steps(training, [step for steps in rounds for step in steps], watch)
    return Trail(tuple(watch.rounds), len(training.micro_batch_tokens), ran.losses, ran.grad_norm)


def counted_micro_batches(training: AnyTraining, count: int = COUNTED_MICRO_BATCHES) -> tuple[int, ...]:
    """Micro-batches at equally spaced quantiles of cost, for the passes that count: they stand for all."""
    ordered = by_cost(training)
    count = min(count, len(ordered))
    return tuple(ordered[(2 * position + 1) * len(ordered) // (2 * count)] for position in range(count))


def cheapest_and_costliest(training: AnyTraining) -> tuple[int, ...]:
    """
    The micro-batches of an optimizer step that takes as much memory as any: the costliest comes last.

    Where micro-batches accumulate there is one before it, so that the gradients are there already.
    """
    ordered = by_cost(training)
    return (ordered[0], ordered[-1]) if training.accumulation_steps > 1 else (ordered[-1],)


def by_cost(training: AnyTraining) -> list[int]:
    """Micro-batch indices, the cheapest first."""
    return sorted(range(len(training.micro_batch_tokens)), key=training.micro_batch_tokens.__getitem__)


def _rounds(training: AnyTraining) -> list[list[range]]:
    """Micro-batch indices by optimizer step, by round."""
    size = training.accumulation_steps
    steps = [range(start, start + size) for start in range(0, len(training.micro_batch_tokens), size)]
    num_rounds = min(MAX_ROUNDS, len(steps))
    bounds = [len(steps) * position // num_rounds for position in range(num_rounds + 1)]
    return [steps[low:high] for low, high in itertools.pairwise(bounds)]


class _FirstMicroBatch(Watch):
    """Times the first micro-batch of a run."""

    def __init__(self, synchronise: Callable[[], None]) -> None:
        self.seconds = 0.0
        self._synchronise = synchronise
        self._started = 0.0

    def step_begins(self) -> None:
        self._started = time.perf_counter()

    def micro_batch_ended(self, result: StepResult) -> None:
        if not self.seconds:
            self._synchronise()
            self.seconds = time.perf_counter() - self._started


class _Timed(Watch):
    """Times rounds of so many optimizer steps each."""

    def __init__(
        self, sizes: Sequence[int], synchronise: Callable[[], None], on_round: Callable[[Round], None]
    ) -> None:
        self.rounds: list[Round] = []
        self._sizes = sizes
        self._synchronise = synchronise
        self._on_round = on_round
        self._steps = self._samples = self._tokens = 0
        self._started = 0.0

    def step_begins(self) -> None:
        if not self._steps:
            self._synchronise()
            self._started = time.perf_counter()

    def micro_batch_ended(self, result: StepResult) -> None:
        self._samples += result.samples
        self._tokens += result.tokens or 0

    def step_ended(self) -> None:
        self._steps += 1
        if self._steps < self._sizes[len(self.rounds)]:
            return
        self._synchronise()
        self.rounds.append(Round(time.perf_counter() - self._started, self._samples, self._tokens))
        self._steps = self._samples = self._tokens = 0
        self._on_round(self.rounds[-1])


@contextmanager
def collector_off() -> Iterator[None]:
    """Collect garbage now, and not meanwhile."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
