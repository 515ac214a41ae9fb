"""Rounds run every micro-batch once, time whole optimizer steps, and let nothing else in."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pytest_llmbench.engine.rounds import MAX_ROUNDS, counted_micro_batches, run_rounds, warm_up
from pytest_llmbench.schema.step import StepResult


class Recorded:
    """A training that writes down what is asked of it."""

    batch_size = 2
    model: nn.Module | None = None
    optimizer: object | None = None

    def __init__(self, tokens: Sequence[int], accumulation_steps: int) -> None:
        self.micro_batch_tokens = tokens
        self.accumulation_steps = accumulation_steps
        self.trail: list[str] = []
        self.collector_was_on: set[bool] = set()

    def micro_step(self, index: int) -> StepResult:
        self.trail.append(str(index))
        self.collector_was_on.add(gc.isenabled())
        return StepResult(self.batch_size, self.micro_batch_tokens[index], torch.tensor(float(index)))

    def optimizer_step(self) -> Tensor:
        self.trail.append("step")
        return torch.tensor(float(len(self.trail)))

    def synchronise(self) -> None:
        self.trail.append("wait")


def test_every_micro_batch_runs_once_and_a_step_follows_every_few() -> None:
    training = Recorded([1] * 4, accumulation_steps=2)

    run_rounds(training, lambda: None)

    assert training.trail == ["0", "1", "step", "2", "3", "step"]


def test_a_round_waits_for_the_device_at_its_ends_only() -> None:
    training = Recorded([1] * 4, accumulation_steps=4)

    run_rounds(training, training.synchronise)

    assert training.trail == ["wait", "0", "1", "2", "3", "step", "wait"]


@pytest.mark.parametrize(("num_steps", "num_rounds"), [(1, 1), (3, 3), (4, 4), (5, MAX_ROUNDS), (32, MAX_ROUNDS)])
def test_rounds_are_whole_optimizer_steps_and_few(num_steps: int, num_rounds: int) -> None:
    training = Recorded([1] * num_steps * 2, accumulation_steps=2)

    trail = run_rounds(training, lambda: None)

    assert len(trail.rounds) == num_rounds
    assert all(done.samples % 4 == 0 for done in trail.rounds)
    assert sum(done.samples for done in trail.rounds) == num_steps * 4


def test_a_round_counts_the_tokens_of_its_micro_batches() -> None:
    trail = run_rounds(Recorded([3, 5, 7, 9], accumulation_steps=2), lambda: None)

    assert [done.tokens for done in trail.rounds] == [8, 16]


def test_losses_and_the_last_gradient_norm_stay_on_the_device() -> None:
    trail = run_rounds(Recorded([1] * 2, accumulation_steps=1), lambda: None)

    assert [float(loss) for loss in trail.losses] == [0.0, 1.0]
    assert trail.grad_norm is not None
    assert float(trail.grad_norm) == 4.0


def test_the_garbage_collector_is_off_inside_and_as_before_afterwards() -> None:
    training = Recorded([1], accumulation_steps=1)

    run_rounds(training, lambda: None)

    assert training.collector_was_on == {False}
    assert gc.isenabled()


def test_the_collector_comes_back_when_a_step_fails() -> None:
    training = Recorded([], accumulation_steps=1)
    training.micro_batch_tokens = [1]
    training.micro_step = lambda index: 1 / 0  # type: ignore[assignment, return-value]

    with pytest.raises(ZeroDivisionError):
        run_rounds(training, lambda: None)
    assert gc.isenabled()


def test_warm_up_ends_with_an_optimizer_step_and_tells_the_first_micro_batch_apart() -> None:
    training = Recorded([1] * 8, accumulation_steps=8)

    seconds = warm_up(training, training.synchronise)

    assert training.trail == ["0", "wait", "1", "2", "3", "step", "wait"]
    assert seconds > 0


def test_what_is_counted_stands_for_short_and_long_micro_batches_alike() -> None:
    training = Recorded([80, 10, 70, 20, 60, 30, 50, 40], accumulation_steps=8)

    counted = counted_micro_batches(training, 4)

    assert [training.micro_batch_tokens[index] for index in counted] == [20, 40, 60, 80]


def test_no_more_is_counted_than_there_is() -> None:
    assert counted_micro_batches(Recorded([5, 6], accumulation_steps=1)) == (0, 1)
