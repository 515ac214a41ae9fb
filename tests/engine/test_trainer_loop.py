"""Under a Trainer the same work is done as in the bare step, and it is watched at the same places."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_llmbench.engine.injection import Injected
from pytest_llmbench.engine.loop import AnyTraining, Watch, run_steps
from pytest_llmbench.engine.rounds import Trail, counted_micro_batches, run_rounds, warm_up
from pytest_llmbench.engine.trainer_loop import TrainerTraining, build_trainer
from pytest_llmbench.engine.training import build_fine_tuning
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import WORKLOAD_VERSION, Injection, Workload, workload_version
from pytest_llmbench.worker.measure import measure

pytestmark = pytest.mark.versions

CPU = torch.device("cpu")
SMOKE = Workload(scale="smoke", device="cpu", samples=8)

AXES: dict[str, dict[str, Any]] = {
    "plain": {"accumulation_steps": 1, "gradient_checkpointing": False},
    "checkpointing": {"accumulation_steps": 1},
    "accumulation": {"accumulation_steps": 4},
    "padded batches": {"accumulation_steps": 2, "batch_size": 3},
}
each = pytest.mark.parametrize("axes", AXES.values(), ids=AXES.keys())


def case(**axes: Any) -> Case:
    """Trains every parameter: without adapters there is no dropout, so that both loops compute the same."""
    return Case(**{"model": "qwen-7b-chat", "attention": "sdpa", "tuner": "full"} | axes)


def trail_of(training: AnyTraining) -> Trail:
    warm_up(training, lambda: None)
    return run_rounds(training, lambda: None)


def trained(training: AnyTraining) -> Any:
    assert training.model is not None
    return torch.cat([parameter.detach().flatten().float() for parameter in training.model.parameters()])


class Told(Watch):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.samples: list[int] = []
        self.tokens: list[int | None] = []

    def step_begins(self) -> None:
        self.events.append("step begins")

    def micro_batch_begins(self) -> None:
        self.events.append("micro-batch begins")

    def micro_batch_ended(self, result: StepResult) -> None:
        self.events.append("micro-batch ended")
        self.samples.append(result.samples)
        self.tokens.append(result.tokens)

    def gradients_ready(self) -> None:
        self.events.append("gradients ready")

    def step_ended(self) -> None:
        self.events.append("step ended")


@each
def test_losses_are_those_of_the_bare_step(axes: dict[str, Any]) -> None:
    bare, trainer = (trail_of(build(case(**axes), SMOKE, CPU)) for build in (build_fine_tuning, build_trainer))

    # Later ones depend on the weights, which differ by weight decay on norms and by rounding to bf16.
    torch.testing.assert_close(trainer.losses[0], bare.losses[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.stack(trainer.losses), torch.stack(bare.losses), rtol=1e-3, atol=0)


@each
def test_rounds_hold_the_samples_and_tokens_of_the_bare_step(axes: dict[str, Any]) -> None:
    bare, trainer = (trail_of(build(case(**axes), SMOKE, CPU)) for build in (build_fine_tuning, build_trainer))

    held = [(done.samples, done.tokens) for done in bare.rounds]
    assert [(done.samples, done.tokens) for done in trainer.rounds] == held
    assert all(done.seconds > 0 for done in trainer.rounds)


def test_weights_move_as_in_the_bare_step() -> None:
    bare, trainer = (
        build_fine_tuning(case(accumulation_steps=1), SMOKE, CPU),
        build_trainer(case(accumulation_steps=1), SMOKE, CPU),
    )
    before = trained(bare)
    assert torch.equal(trained(trainer), before)

    trails = [trail_of(training) for training in (bare, trainer)]

    moved, moved_too = trained(bare) - before, trained(trainer) - before
    assert moved.any()
    assert torch.cosine_similarity(moved, moved_too, dim=0) > 0.9
    torch.testing.assert_close(trails[1].grad_norm, trails[0].grad_norm, rtol=0.02, atol=0)


def test_a_watch_is_told_the_same_of_both_loops() -> None:
    watches = []
    for build in (build_fine_tuning, build_trainer):
        training: AnyTraining = build(case(accumulation_steps=2, batch_size=2), SMOKE, CPU)
        watches.append(Told())
        run_steps(training, [[3, 0], [1, 2]], watches[-1])

    bare, trainer = watches
    assert trainer.events == bare.events
    assert trainer.events.count("step ended") == 2
    assert (trainer.samples, trainer.tokens) == (bare.samples, bare.tokens)


@pytest.mark.parametrize("num_micro_batches", [1, 3, 5])
def test_a_step_may_have_other_micro_batches_than_the_case_says(num_micro_batches: int) -> None:
    training = build_trainer(case(accumulation_steps=4), SMOKE, CPU)
    told = Told()

    ran = training.run([range(num_micro_batches)], told)

    assert len(ran.losses) == num_micro_batches
    assert told.events.count("step ended") == 1


def test_the_schedule_goes_on_from_run_to_run() -> None:
    training = build_trainer(case(accumulation_steps=1), SMOKE, CPU)
    rates = []

    class Rates(Watch):
        def step_begins(self) -> None:
            rates.append(learning_rate(training))

    for _ in range(2):
        training.run([[0], [1]], Rates())

    assert rates == sorted(set(rates))


def learning_rate(training: TrainerTraining) -> float:
    rate: float = training.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]
    return rate


def test_a_fault_is_planted_in_every_micro_batch() -> None:
    training = build_trainer(case(accumulation_steps=2), SMOKE, CPU)
    injected = Injected(training, Injection("host", 1.0), CPU, seconds_per_micro_batch=0.05)
    told = Told()

    trail = run_rounds(injected, lambda: None)
    injected.run([[0, 1]], told)

    assert sum(done.seconds for done in trail.rounds) > 8 * 0.05
    assert told.events == [
        "step begins",
        *["micro-batch begins", "micro-batch ended"] * 2,
        "gradients ready",
        "step ended",
    ]


def test_what_is_counted_is_one_step_of_the_chosen_micro_batches() -> None:
    training = build_trainer(case(accumulation_steps=8), SMOKE, CPU)
    told = Told()

    training.run([counted_micro_batches(training)], told)

    assert told.events.count("micro-batch ended") == 4


def test_the_trainer_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    trail_of(build_trainer(case(accumulation_steps=4), SMOKE, CPU))

    assert not list(tmp_path.iterdir())


def test_the_trainer_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    trail_of(build_trainer(case(accumulation_steps=4), SMOKE, CPU))

    assert capsys.readouterr().out == ""


def _measured(loop: Any) -> Process:
    row = Case(model="qwen-7b-chat", accumulation_steps=4, loop=loop)
    [process] = measure(Request(case=row, workload=SMOKE), lambda _: None).processes
    return process


def test_a_row_under_a_trainer_has_the_metrics_of_the_bare_step() -> None:
    bare, trainer = _measured("step"), _measured("trainer")

    assert (trainer.outcome, trainer.reason) == ("ok", None)
    assert trainer.metrics.keys() == bare.metrics.keys()
    assert trainer.missing == bare.missing
    assert trainer.ran == bare.ran
    for name in ("parameters", "trainable_parameters", "loss_first"):
        assert trainer.metrics[name] == pytest.approx(bare.metrics[name], rel=1e-3)


def test_the_trainers_own_operators_are_counted() -> None:
    bare, trainer = (_measured(loop).metrics["operators_per_sample"] for loop in ("step", "trainer"))

    assert trainer > bare  # type: ignore[operator]


def masks_of(training: AnyTraining) -> list[Any]:
    """What the model is given as a mask in a warm-up."""
    assert training.model is not None
    seen: list[Any] = []
    hook = training.model.register_forward_pre_hook(
        lambda model, args, kwargs: seen.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    warm_up(training, lambda: None)
    hook.remove()
    return seen


@pytest.mark.parametrize("model", ["yi-6b-chat", "qwen-7b-chat"])
def test_under_a_trainer_every_batch_has_a_mask(model: str) -> None:
    masks = masks_of(build_trainer(case(model=model, loop="trainer", accumulation_steps=1), SMOKE, CPU))

    assert len(masks) == 4
    assert all(mask is not None and mask.all() for mask in masks)


def test_the_bare_step_has_no_mask_where_nothing_is_padded() -> None:
    assert masks_of(build_fine_tuning(case(accumulation_steps=1), SMOKE, CPU)) == [None] * 4


def test_what_changed_under_the_trainer_alone_has_a_version_of_its_own() -> None:
    assert workload_version(case(loop="trainer")) > workload_version(case()) == WORKLOAD_VERSION
