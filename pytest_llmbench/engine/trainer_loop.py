"""
The same fine-tuning under `transformers.Trainer`, run for real and watched from inside.

Each run is one `Trainer.train()` of whole optimizer steps, and what runs is what a user's training
runs: the Trainer's shuffling data loader as accelerate prepares it (no worker processes; padding, pinned
memory and the copy to the GPU), its optimizer and schedule, `training_step` with the loss scaled by the
tokens of the accumulated batches, `accelerator.backward`, the look at every loss for NaN, the count of
floating-point operations, clipping, and the callbacks. The clock starts before an optimizer step's
batches are fetched and stops when `on_step_end` is called. Not within it: `Trainer.__init__`, and what
`train()` does before its first and after its last step. Logging, progress bars, evaluation, saving and
reporting are off.

Data, seed, learning rate, schedule, weight decay and clipping are those of the bare step, and so is
the checkpointing of the blocks, which is switched on in the model; parameters are bf16 and there is
no autocast. Three things differ, as they do for users: every batch has an attention mask, of ones where
nothing is padded, the Trainer spares biases and norms the weight decay, and it accumulates in its own way, over tokens where the bare step averages micro-batches. Some
versions sum up instead (transformers 4.48), and the norm of their gradients says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pytest_llmbench.engine.batches import IGNORED_LABEL, Batch, collate
from pytest_llmbench.engine.loop import Ran, SelfDriven, Watch
from pytest_llmbench.engine.training import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    SEED,
    WEIGHT_DECAY,
    FineTuning,
    build_fine_tuning,
    num_warmup_steps,
)
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import Workload

__all__ = ["TrainerTraining", "Watched", "build_trainer"]


class TrainerTraining(SelfDriven):
    """
    Runs the micro-batches of a bare fine-tuning under a Trainer.

    Runs go on where the last one ended: optimizer, schedule and weights are kept between them.
    """

    def __init__(self, bare: FineTuning, case: Case, device: torch.device) -> None:
        super().__init__(bare)
        self._batches = bare.batches
        self._samples = [batch.sequences() for batch in bare.batches]
        self._trainer = _watched_trainer(bare, case, device)
        self._trainer.create_optimizer()  # `train()` would, and takes this one
        self.optimizer = self._trainer.optimizer

    def run(self, steps: Sequence[Sequence[int]], watch: Watch) -> Ran:
        order = [index for step in steps for index in step]
        trainer = self._trainer
        trainer.train_dataset = _InOrder([sample for index in order for sample in self._samples[index]])
        trainer.args.max_steps = len(steps)
        trainer.args.gradient_accumulation_steps = len(steps[0])
        trainer.begin(watch, [self._batches[index] for index in order], len(steps))
        trainer.train()
        return trainer.ran()


def build_trainer(case: Case, workload: Workload, device: torch.device) -> TrainerTraining:
    """
    Model with random weights, adapters and batches as for the bare step, and a Trainer around them.

    Raises:
        CaseError: the layers are split over GPUs in a way that the Trainer does not see.
    """
    bare = build_fine_tuning(case, workload, device)
    if case.num_gpus > 1 and device.type == "cuda" and getattr(bare.model, "hf_device_map", None) is None:
        raise CaseError(
            f"loop='trainer' with num_gpus={case.num_gpus}: the model has no hf_device_map, and a Trainer would "
            "move all of it to one GPU; use loop='step'"
        )
    return TrainerTraining(bare, case, device)


class _InOrder(Dataset[Tensor]):
    """Hands out the samples in their order, whatever index is asked for: the Trainer shuffles, and may."""

    def __init__(self, samples: Sequence[Tensor]) -> None:
        self._num_samples = len(samples)
        self._coming: Iterator[Tensor] = iter(samples)

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Tensor:
        return next(self._coming)


class Watched:
    """
    What a class of Trainers gets in front: it tells a watch how far it is, and keeps its schedule from one
    `train()` to the next.
    """

    watch: Watch
    num_steps: int

    def attach(self: Any, total_optimizer_steps: int) -> None:
        """Once, before the first `train()`."""
        self._total_optimizer_steps = total_optimizer_steps
        self._schedule: Any = None
        self._clip, self._free_memory = self.accelerator.clip_grad_norm_, self.accelerator.free_memory
        self.accelerator.clip_grad_norm_ = self._clip_and_tell
        self.accelerator.free_memory = self._free_memory_once

    def create_scheduler(self: Any, num_training_steps: int, optimizer: Any = None) -> Any:
        # `train()` makes a new one each time.
        if self._schedule is None:
            self._schedule = super().create_scheduler(self._total_optimizer_steps, optimizer)  # type: ignore[misc]
        self.lr_scheduler = self._schedule
        return self._schedule

    def _clip_and_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.watch.gradients_ready()
        self._grad_norm = self._clip(*args, **kwargs)
        return self._grad_norm

    def _free_memory_once(self: Any, *objects: Any) -> Any:
        # `train()` begins with it. A user's runs once; between a warm-up and what is measured it would
        # empty the cache of torch's allocator.
        if self._schedule is None:
            self._free_memory(*objects)
        return objects


class _WatchedTrainer(Watched, Trainer):
    """The Trainer of the built-in fine-tuning."""

    def __init__(self, *args: Any, total_optimizer_steps: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attach(total_optimizer_steps)

    def begin(self, watch: Watch, batches: Sequence[Batch], num_steps: int) -> None:
        """Before each `train()`: what is told, and which batches come."""
        self.watch = watch
        self.num_steps = num_steps
        self._batches = batches
        self._losses: list[tuple[Tensor, Any]] = []
        self._grad_norm: Tensor | None = None

    def ran(self) -> Ran:
        """
        Raises:
            RuntimeError: the Trainer did not do what it was told.
        """
        if len(self._losses) != len(self._batches) or self._grad_norm is None:
            raise RuntimeError(
                f"transformers.Trainer ran {len(self._losses)} of {len(self._batches)} micro-batches "
                f"and {'clipped' if self._grad_norm is not None else 'did not clip'} the gradients"
            )
        pairs = zip(self._losses, self._batches, strict=True)
        losses = tuple(_mean_loss(loss, num_items, batch) for (loss, num_items), batch in pairs)
        return Ran(losses, self._grad_norm)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.watch.micro_batch_begins()
        loss: Tensor = super().training_step(*args, **kwargs)
        batch = self._batches[len(self._losses) - 1]
        self.watch.micro_batch_ended(StepResult(batch.samples, batch.tokens))
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._losses.append((loss.detach(), num_items_in_batch if self.model_accepts_loss_kwargs else None))
        return loss


class _Boundaries(TrainerCallback):
    """Tells the Trainer's watch where optimizer steps begin and end."""

    def __init__(self) -> None:
        self.trainer: Any = None

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.watch.step_begins()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.watch.step_ended()
        if state.global_step < self.trainer.num_steps:
            self.trainer.watch.step_begins()


def _watched_trainer(bare: FineTuning, case: Case, device: torch.device) -> _WatchedTrainer:
    boundaries = _Boundaries()
    # The Trainer makes the folder, whether anything is saved or not.
    with tempfile.TemporaryDirectory(prefix="llmbench-") as folder:
        trainer = _WatchedTrainer(
            model=bare.model,
            args=_arguments(bare, case, device, folder),
            data_collator=_collate,
            train_dataset=_InOrder([]),
            callbacks=[boundaries],
            total_optimizer_steps=bare.total_optimizer_steps,
        )
    trainer.remove_callback(PrinterCallback)
    boundaries.trainer = trainer
    return trainer


def _arguments(bare: FineTuning, case: Case, device: torch.device, folder: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=case.batch_size,
        gradient_accumulation_steps=case.accumulation_steps,
        max_steps=1,  # each run says its own
        learning_rate=LEARNING_RATE[case.tuner],
        weight_decay=WEIGHT_DECAY,
        warmup_steps=num_warmup_steps(bare.total_optimizer_steps),
        lr_scheduler_type="linear",
        max_grad_norm=MAX_GRAD_NORM,
        optim="adamw_torch",
        seed=SEED,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        # More GPUs than the case uses, or one process with its layers split over them: the Trainer would replicate
        # the model over all that it sees.
        arguments._n_gpu = 1
    return arguments


def _collate(samples: list[Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor for name, tensor in collate(samples, always_masked=True).inputs().items() if tensor is not None
    }


def _mean_loss(loss: Tensor, num_items: Any, batch: Batch) -> Tensor:
    """
    The mean over the micro-batch's own tokens.

    Args:
        loss: as the model gave it.
        num_items: tokens of the whole optimizer step by which the model divided, or None.
        batch: the micro-batch.
    """
    if num_items is None:
        return loss
    return loss * num_items / (batch.labels[:, 1:] != IGNORED_LABEL).sum()
