"""
A `transformers.Trainer` of the user's own, or of a class that inherits from it, driven as it is.

Each run is one `Trainer.train()` from the beginning of the data, over the Trainer's own data set, collator,
loss, optimizer, schedule and callbacks. Optimizer, schedule and weights are kept between runs. Only what a
training does beside its steps is switched off: logging, progress bars, evaluation, saving and reporting.

The clock stands as for `loop="trainer"`, see `trainer_loop`. Every pass is over whole optimizer steps of as
many micro-batches as the Trainer accumulates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from pytest_llmbench.engine.loop import Ran, SelfDriven, Watch
from pytest_llmbench.engine.trainer_loop import Watched
from pytest_llmbench.schema.case import CaseError
from pytest_llmbench.schema.step import StepResult

__all__ = ["OwnTrainer", "drive"]


class OwnTrainer(SelfDriven):
    """
    Runs a user's Trainer.

    Args:
        trainer: as it was built; it belongs to this from now on.
        num_samples: samples of the measured rounds, rounded up to whole optimizer steps.
    """

    def __init__(self, trainer: Any, num_samples: int) -> None:
        per_step = trainer.args.gradient_accumulation_steps
        self.batch_size = trainer.args.train_batch_size
        self.accumulation_steps = per_step
        count = math.ceil(num_samples / (self.batch_size * per_step)) * per_step
        self.micro_batch_tokens: Sequence[int] = [1] * count
        self.model = trainer.model
        self._trainer = _watched(trainer)
        self._trainer.tokens = _tokens(islice(trainer.get_train_dataloader(), count))
        if trainer.optimizer is None:
            trainer.create_optimizer()  # `train()` would, and takes this one
        self.optimizer: object = trainer.optimizer
        self._is_warm = False

    def run(self, steps: Sequence[Sequence[int]], watch: Watch) -> Ran:
        num_steps = len(steps)
        if not self._is_warm:  # the warm-up is one step, and has to be long enough
            num_steps = math.ceil(len(steps[0]) / self.accumulation_steps)
            self._is_warm = True
        trainer = self._trainer
        trainer.args.max_steps = num_steps
        trainer.begin(watch, num_steps)
        trainer.train()
        return trainer.ran()


def drive(trainer: Trainer, num_samples: int) -> OwnTrainer:
    """
    Raises:
        CaseError: the Trainer has no data to train on.
    """
    if trainer.train_dataset is None:
        raise CaseError(f"the {type(trainer).__name__} that the step built has no train_dataset; give it one")
    return OwnTrainer(trainer, num_samples)


class _OfUser(Watched):
    """In front of the class of a user's Trainer."""

    tokens: Sequence[int | None]
    """Of each micro-batch from the beginning of the data."""

    def begin(self: Any, watch: Watch, num_steps: int) -> None:
        """Before each `train()`."""
        self.watch, self.num_steps = watch, num_steps
        self.step_is_on = self.is_ready = False
        self._micro_batches = 0
        self._losses: list[Tensor] = []
        self._grad_norm: Tensor | None = None

    def ran(self: Any) -> Ran:
        """
        Raises:
            CaseError: nothing was trained.
        """
        if not self._micro_batches:
            raise CaseError("the Trainer made no training step; its data set may be empty")
        norm = self._grad_norm
        return Ran(tuple(self._losses), norm if isinstance(norm, Tensor) else None)

    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        self.watch.micro_batch_begins()
        samples = _samples(inputs) or self.args.train_batch_size
        before = len(self._losses)
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        if len(self._losses) == before:
            self._losses.append(loss.detach())
        del self._losses[before + 1 :]
        number, self._micro_batches = self._micro_batches, self._micro_batches + 1
        tokens = self.tokens[number] if number < len(self.tokens) else None
        self.watch.micro_batch_ended(StepResult(samples, tokens))
        return loss

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = super().compute_loss(*args, **kwargs)  # type: ignore[misc]
        loss = found[0] if isinstance(found, tuple) else found
        self._losses.append(loss.detach())
        return found

    def _clip_and_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.is_ready = True
        return super()._clip_and_tell(*args, **kwargs)


class _Boundaries(TrainerCallback):
    """Tells the Trainer's watch where optimizer steps begin and end, also over the end of an epoch."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begin()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._ready()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        self._ready()  # before transformers called back before the optimizer
        trainer.watch.step_ended()
        trainer.step_is_on = trainer.is_ready = False
        if state.global_step < trainer.num_steps:
            self._begin()

    def _begin(self) -> None:
        if not self._trainer.step_is_on:
            self._trainer.step_is_on = True
            self._trainer.watch.step_begins()

    def _ready(self) -> None:
        """The gradients are there; clipping, if the Trainer clips, has told so already."""
        if not self._trainer.is_ready:
            self._trainer.is_ready = True
            self._trainer.watch.gradients_ready()


def _watched(trainer: Any) -> Any:
    """The same Trainer, with what tells a watch in front of its class, and without what is done beside the steps."""
    args = trainer.args
    total = args.max_steps if args.max_steps > 0 else _epochs_steps(trainer)
    kind = type(trainer)
    trainer.__class__ = type(kind.__name__, (_OfUser, kind), {})
    trainer.attach(total)
    for name in ("logging_strategy", "save_strategy", "eval_strategy"):
        setattr(args, name, type(getattr(args, name))("no"))
    args.load_best_model_at_end = False
    args.disable_tqdm = True
    for callback in list(trainer.callback_handler.callbacks):
        is_report = type(callback).__module__.startswith("transformers.integrations")
        if is_report or isinstance(callback, PrinterCallback | ProgressCallback):
            trainer.remove_callback(callback)
    trainer.add_callback(_Boundaries(trainer))
    return trainer


def _epochs_steps(trainer: Any) -> int:
    """Optimizer steps of all epochs, over which the learning rate falls; of data without a length none is known."""
    try:
        batches = len(trainer.get_train_dataloader())
    except TypeError:
        return 1
    return max(math.ceil(batches / trainer.args.gradient_accumulation_steps * trainer.args.num_train_epochs), 1)


def _tokens(batches: Iterable[Any]) -> list[int | None]:
    """Tokens of each micro-batch, padding left out; read before anything is measured, and leaves the seeds as they are."""
    with torch.random.fork_rng(devices=[]):
        return [_num_tokens(batch) for batch in batches]


def _num_tokens(batch: Any) -> int | None:
    if not isinstance(batch, Mapping):
        return None
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return int(mask.sum())
    return ids.numel() if isinstance(ids, Tensor) else None


def _samples(inputs: Any) -> int | None:
    """The first dimension of what a micro-batch holds."""
    if isinstance(inputs, list):
        return len(inputs)
    found = (
        (len(one) for one in inputs.values() if isinstance(one, Tensor) and one.ndim)
        if isinstance(inputs, Mapping)
        else ()
    )
    return next(iter(found), None)
