"""A `transformers.Trainer` that a user's function builds is driven as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from pytest_llmbench.engine.custom import build_custom
from pytest_llmbench.engine.loop import SelfDriven
from pytest_llmbench.engine.own_trainer import OwnTrainer, drive
from pytest_llmbench.engine.rounds import run_rounds, warm_up
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.worker.measure import measure

CPU = torch.device("cpu")
LENGTHS = (3, 5, 4, 2)
ENDS: list[int] = []
"""Optimizer steps that the user's own callback has seen."""


class Model(nn.Module):  # type: ignore[misc]
    """A language model of two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(16, 8), nn.Linear(8, 16)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.embedding(input_ids))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class Users(Trainer):  # type: ignore[misc]
    """A Trainer with a loss of its own, as those of trl have."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        found = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        return (found[0] * 2, found[1]) if return_outputs else found[0] * 2


class Ends(TrainerCallback):  # type: ignore[misc]
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ENDS.append(state.global_step)


def collate(samples: list[list[int]]) -> dict[str, Tensor]:
    longest = max(map(len, samples))
    ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in samples])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids}


def build(device: Any, *, folder: str, kind: str = "Trainer", num_samples: int = 64, **options: Any) -> Trainer:
    data = [list(range(1, 1 + LENGTHS[number % 4])) for number in range(num_samples)]
    args = TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        **{"gradient_accumulation_steps": 2, "report_to": [], **options},
    )
    return {"Trainer": Trainer, "Users": Users}[kind](
        model=Model(), args=args, train_dataset=data, data_collator=collate, callbacks=[Ends()]
    )


def case(tmp_path: Path, **arguments: Any) -> Case:
    return Case.custom(f"{__name__}:build", name="mine", arguments={"folder": str(tmp_path / "out"), **arguments})


def training(tmp_path: Path, samples: int = 8, **arguments: Any) -> SelfDriven:
    found = build_custom(case(tmp_path, **arguments), Workload(samples=samples), CPU)
    assert isinstance(found, OwnTrainer)
    return found


def measured(tmp_path: Path, **arguments: Any) -> Process:
    workload = Workload(scale="smoke", device="cpu", samples=8)
    [process] = measure(Request(case=case(tmp_path, **arguments), workload=workload), lambda _: None).processes
    return process


def test_its_rounds_have_samples_tokens_losses_and_a_norm(tmp_path: Path) -> None:
    process = measured(tmp_path)

    assert (process.outcome, process.reason) == ("ok", None)
    assert sum(done.samples for done in process.rounds) == 8
    assert {"tokens_per_second", "loss_first", "loss_last", "grad_norm", "parameters"} <= process.metrics.keys()
    assert process.metrics["operators_per_sample"] > 0  # type: ignore[operator]


def test_it_counts_the_same_again(tmp_path: Path) -> None:
    one, other = (measured(tmp_path).metrics for _ in range(2))

    exact = ("operators_per_sample", "loss_first", "loss_last", "grad_norm")
    assert [one[name] for name in exact] == [other[name] for name in exact]


def test_what_ran_names_its_optimizer(tmp_path: Path) -> None:
    assert measured(tmp_path, optim="sgd").ran["optimizer"] == "SGD"


def test_another_optimizer_is_counted(tmp_path: Path) -> None:
    adam, sgd = (measured(tmp_path, optim=name).metrics["operators_per_sample"] for name in ("adamw_torch", "sgd"))

    assert adam != sgd


def test_tokens_are_those_of_the_batches_without_padding(tmp_path: Path) -> None:
    found = training(tmp_path, samples=64)
    warm_up(found, lambda: None)

    trail = run_rounds(found, lambda: None)

    assert sum(done.tokens for done in trail.rounds) == 16 * sum(LENGTHS)


def test_each_round_is_of_whole_optimizer_steps(tmp_path: Path) -> None:
    found = training(tmp_path, samples=12)
    warm_up(found, lambda: None)
    ENDS.clear()

    trail = run_rounds(found, lambda: None)

    assert [done.samples for done in trail.rounds] == [4, 4, 4]
    assert ENDS == [1, 2, 3]


def test_data_that_ends_begins_again(tmp_path: Path) -> None:
    found = training(tmp_path, samples=16, num_samples=4)
    warm_up(found, lambda: None)

    assert len(run_rounds(found, lambda: None).losses) == 8


def test_a_class_that_inherits_from_it_keeps_its_own_loss(tmp_path: Path) -> None:
    plain, doubled = (measured(tmp_path, kind=kind).metrics["loss_first"] for kind in ("Trainer", "Users"))

    assert doubled == pytest.approx(2 * plain)


def test_gradients_need_not_be_clipped(tmp_path: Path) -> None:
    process = measured(tmp_path, max_grad_norm=0.0)

    assert process.outcome == "ok"
    assert "python_calls_per_sample" in process.metrics


def test_its_own_callbacks_are_called(tmp_path: Path) -> None:
    ENDS.clear()

    measured(tmp_path)

    assert ENDS


def test_nothing_is_saved_logged_or_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(tmp_path, save_strategy="steps", save_steps=1, logging_steps=1)

    assert list((tmp_path / "out").glob("checkpoint-*")) == []
    assert "loss" not in capsys.readouterr().out


def test_a_trainer_without_data_is_refused(tmp_path: Path) -> None:
    found = build(CPU, folder=str(tmp_path))
    found.train_dataset = None

    with pytest.raises(CaseError, match="has no train_dataset"):
        drive(found, 4)
