"""
The user's own training step, wrapped as a `Training`.

`Case.custom("module:build", name=...)` names a function of the user's that gets the `torch.device`
to train on and returns the step: something to call without arguments that trains on one micro-batch,
its backward pass and, when it is due, its optimizer step included. Each call returns how many
samples it trained on, or a `StepResult` with tokens and loss as well. A detached loss on the device
is read after the clock has stopped; a step that returns none is not guarded against computing
something else.

The module is imported and the step built in the measuring process only, before the clock starts. So
many calls as the workload has samples are timed, after a few for warming up and before a few that
are counted. Seed whatever is random in `build`, or losses will not compare.

A step may have an attribute `model`, an `nn.Module` whose parameters and classes are recorded, and an
`optimizer`, whose class is. What it raises makes the case fail: `torch.OutOfMemoryError` as `oom`, an
import that fails as `unavailable`, everything else as `crashed`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import Workload

__all__ = ["CustomTraining", "build_custom"]


class CustomTraining:
    """
    Calls the user's step once per micro-batch.

    The step does its own backward pass and its own optimizer step, so accumulation is 1 here.
    """

    batch_size = 1
    accumulation_steps = 1

    def __init__(self, step: Callable[[], StepResult | int], num_steps: int) -> None:
        self.micro_batch_tokens: Sequence[int] = [1] * num_steps
        model = getattr(step, "model", None)
        self.model = model if isinstance(model, nn.Module) else None
        self.optimizer = getattr(step, "optimizer", None)
        self._step = step

    def micro_step(self, index: int) -> StepResult:
        result = self._step()
        return result if isinstance(result, StepResult) else StepResult(_checked_samples(result))

    def optimizer_step(self) -> Tensor | None:
        return None


def build_custom(case: Case, workload: Workload, device: torch.device) -> CustomTraining:
    """
    Import `case.step` and let it build the step on *device*.

    Raises:
        CaseError: the module or the function is not there, or what it builds cannot be called.
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
    step = build(device)
    if not callable(step):
        raise CaseError(f"step={case.step!r} built a {type(step).__name__}; it must build something to call")
    if workload.samples == "full":
        raise CaseError("samples='full' has no meaning for a custom step, which has no epoch; give a number")
    return CustomTraining(step, workload.samples)


def _checked_samples(result: object) -> int:
    if isinstance(result, int) and not isinstance(result, bool) and result > 0:
        return result
    raise CaseError(
        f"a custom step returned {result!r}; it must return how many samples it trained on, or a StepResult"
    )
