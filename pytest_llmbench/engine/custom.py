"""
The user's own training step, wrapped as a `Training`.

`Case.custom("module:build", name=...)` names a function of the user's that gets the `torch.device`
to train on and returns the step: something to call without arguments that trains on one micro-batch,
its backward pass and, when it is due, its optimizer step included. Each call returns how many
samples it trained on, or a `StepResult` with tokens and loss as well; a count that is none is
refused at once, with the step's name. A detached loss on the device
is read after the clock has stopped; a step that returns none is not guarded against computing
something else.

The module is imported and the step built in the measuring process only, before the clock starts. So
many calls as the workload has samples are timed, after a few for warming up and before a few that
are counted. Seed whatever is random in `build`, or losses will not compare.

A step may have an attribute `model`, an `nn.Module` whose parameters and classes are recorded, and an
`optimizer`, whose class is. One that makes an optimizer step every few calls says how many in
`accumulation_steps`; every pass then covers whole optimizer steps. What it raises makes the case fail: `torch.OutOfMemoryError` as `oom`, an
import that fails as `unavailable`, everything else as `crashed`.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_llmbench.engine.conduct import Conduct
from pytest_llmbench.engine.loop import AnyTraining, Ran, SelfDriven, Watch
from pytest_llmbench.engine.rounds import WARM_UP_MICRO_BATCHES
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import Workload

__all__ = ["LARGEST_COUNT", "AccumulatingTraining", "CustomTraining", "build_custom"]

LARGEST_COUNT = 2**32
"""More samples or tokens than a micro-batch has; their sums over a run need far less than 64 bits."""


class CustomTraining:
    """
    Calls the user's step once per micro-batch.

    The step does its own backward pass and its own optimizer step, so accumulation is 1 here.
    """

    batch_size = 1
    accumulation_steps = 1

    def __init__(self, step: Callable[[], StepResult | int], num_steps: int, name: str, per_step: int = 1) -> None:
        self.micro_batch_tokens: Sequence[int] = [1] * num_steps
        model = getattr(step, "model", None)
        self.model = model if isinstance(model, nn.Module) else None
        self.optimizer = getattr(step, "optimizer", None)
        self._step = step
        self._name = name
        self._watched_calls = _whole(min(WARM_UP_MICRO_BATCHES, num_steps), per_step) + num_steps
        has_optimizer = isinstance(self.optimizer, Optimizer)
        self._conduct: Conduct | None = Conduct(name, per_step, self.model, has_optimizer=has_optimizer)

    def micro_step(self, index: int) -> StepResult:
        """
        Raises:
            CaseError: what the step returned is no count.
        """
        # Whatever is called here is counted with the calls of the step: a result that is well costs no more than that.
        result = self._step()
        if self._conduct is not None:
            self._watch_call(self._conduct)
        if not isinstance(result, StepResult):
            return StepResult(_count(result) or self._samples(result))
        samples, tokens = result.samples, result.tokens
        counts_samples = samples.__class__ is int and 0 < samples <= LARGEST_COUNT
        counts_tokens = tokens is None or (tokens.__class__ is int and 0 <= tokens <= LARGEST_COUNT)
        if counts_samples and counts_tokens:
            return result
        return result._replace(samples=self._samples(samples), tokens=None if tokens is None else self._tokens(tokens))

    def optimizer_step(self) -> Tensor | None:
        return None

    def _watch_call(self, conduct: Conduct) -> None:
        conduct.called()
        self._watched_calls -= 1
        if not self._watched_calls:
            self._conduct = None
            conduct.end()

    def _samples(self, given: object) -> int:
        if (count := _count(given)) is not None and count > 0:
            return count
        raise CaseError(
            f"step={self._name!r} returned {_shown(given)} as samples; return how many samples it trained on, "
            f"a whole number from 1 to {LARGEST_COUNT}, or a StepResult with that"
        )

    def _tokens(self, given: object) -> int:
        if (count := _count(given)) is not None:
            return count
        raise CaseError(
            f"step={self._name!r} returned {_shown(given)} as tokens; return how many tokens it trained on, "
            f"a whole number from 0 to {LARGEST_COUNT}, or None if it does not count them"
        )


class AccumulatingTraining(SelfDriven):
    """
    Calls a step that makes an optimizer step every few calls, and always a whole number of these.

    Args:
        calls: the step, called once per micro-batch.
        per_step: calls that make an optimizer step.
    """

    batch_size = 1

    def __init__(self, calls: CustomTraining, per_step: int) -> None:
        self.accumulation_steps = per_step
        self.micro_batch_tokens = calls.micro_batch_tokens
        self.model = calls.model
        self.optimizer = calls.optimizer
        self._calls = calls

    def run(self, steps: Sequence[Sequence[int]], watch: Watch) -> Ran:
        losses: list[Tensor] = []
        for step in steps:
            watch.step_begins()
            for index in range(_whole(len(step), self.accumulation_steps)):
                watch.micro_batch_begins()
                result = self._calls.micro_step(index)
                if result.loss is not None:
                    losses.append(result.loss)
                watch.micro_batch_ended(result)
            watch.gradients_ready()
            watch.step_ended()
        return Ran(tuple(losses), None)


def build_custom(case: Case, workload: Workload, device: torch.device) -> AnyTraining:
    """
    Import `case.step` and let it build the step on *device*, or a `transformers.Trainer`.

    Raises:
        CaseError: the module or the function is not there, does not take the arguments, or builds nothing that trains.
    """
    assert case.step is not None
    module_name, _, function_name = case.step.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the user's module imports is missing
        raise CaseError(
            f"step={case.step!r}: there is no module {error.name!r} on the path of the measuring process; "
            "add its folder to pytest's setting 'pythonpath', as --import-mode=importlib adds none"
        ) from None
    build = getattr(module, function_name, None)
    if build is None:
        raise CaseError(f"step={case.step!r}: module {module_name!r} has no {function_name!r}")
    _check_arguments(build, case, device)
    step = build(device, **case.arguments)
    if workload.samples == "full":
        raise CaseError("samples='full' has no meaning for a custom step, which has no epoch; give a number")
    if (transformers := sys.modules.get("transformers.trainer")) and isinstance(step, transformers.Trainer):
        from pytest_llmbench.engine.own_trainer import drive  # imports what no other step needs

        return drive(step, workload.samples)
    if not callable(step):
        raise CaseError(
            f"step={case.step!r} built a {type(step).__name__}; it must build something to call, or a transformers.Trainer"
        )
    per_step = _accumulation_of(step, case.step)
    training = CustomTraining(step, _whole(workload.samples, per_step), case.step, per_step)
    return training if per_step == 1 else AccumulatingTraining(training, per_step)


def _check_arguments(build: Callable[..., object], case: Case, device: torch.device) -> None:
    try:
        inspect.signature(build).bind(device, **case.arguments)
    except TypeError as error:
        raise CaseError(
            f"step={case.step!r} does not take arguments={case.arguments!r} beside the device: {error}"
        ) from None
    except ValueError:
        pass  # a function of C does not say what it takes


def _accumulation_of(step: object, name: str) -> int:
    """Calls that make an optimizer step, as the step's attribute says."""
    given = getattr(step, "accumulation_steps", 1)
    count = _count(given)
    if not count:
        raise CaseError(
            f"step={name!r} has {_shown(given)} as accumulation_steps; give the number of calls that make an optimizer "
            "step, at least 1"
        )
    return count


def _whole(calls: int, per_step: int) -> int:
    """As many calls, rounded up to whole optimizer steps."""
    return -(-calls // per_step) * per_step


def _count(given: object) -> int | None:
    """The whole number that *given* is, also one of numpy's or a tensor without dimensions; None if it is no count."""
    if isinstance(given, bool | Tensor) and (isinstance(given, bool) or given.ndim or given.dtype == torch.bool):
        return None
    try:
        count = operator.index(given)  # type: ignore[arg-type]  # which says so itself
    except (TypeError, RuntimeError):  # RuntimeError: of a tensor that has no value
        return None
    return count if 0 <= count <= LARGEST_COUNT else None


def _shown(given: object) -> str:
    """What was returned, if it has a short and printable form, else its type."""
    try:
        text = repr(given)
    except Exception:  # noqa: BLE001 - a number of thousands of digits, or whatever a class of the user's raises
        text = ""
    return text if 0 < len(text) <= 60 and text.isprintable() else f"a value of type {type(given).__name__}"
