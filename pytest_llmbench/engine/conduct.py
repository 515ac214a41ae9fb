"""
How the user's own step behaves, watched over its warm-up and its rounds, and never while anything is counted.

What the counting passes could not see is refused here: an optimizer that steps less often than the step says,
and work in another thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from pytest_llmbench.schema.case import CaseError

__all__ = ["Conduct"]

OTHERS_SECONDS = 0.05
"""CPU time of other threads that is not looked at: of progress bars and the like."""


class Conduct:
    """
    Watches a step until its rounds are over.

    Args:
        name: of the step, for what is told of it.
        accumulation_steps: calls that the step says make an optimizer step.
        model: whose forward passes it makes, if it says so.
        has_optimizer: whether it shows an optimizer of torch's kind.
    """

    def __init__(self, name: str, accumulation_steps: int, model: nn.Module | None, *, has_optimizer: bool) -> None:
        self._name = name
        self._said = accumulation_steps
        self._has_optimizer = has_optimizer
        self._thread = threading.get_ident()
        self._elsewhere = ""
        self._optimizer_steps = 0
        self._calls = 0
        self._others_before = _seconds_of_others()
        self._own_before = time.thread_time()
        self._hooks: list[Any] = [register_optimizer_step_post_hook(self._note_optimizer)]
        if model is not None:
            self._hooks.append(model.register_forward_pre_hook(self._note_forward))

    def called(self) -> None:
        """After each call of the step."""
        self._calls += 1

    def end(self) -> None:
        """
        Watch no more.

        Raises:
            CaseError: the step does what the counting passes do not see.
        """
        for hook in self._hooks:
            hook.remove()
        others = sum(_grown(self._others_before, _seconds_of_others()))
        own = time.thread_time() - self._own_before
        if not self._elsewhere and others > max(own, OTHERS_SECONDS):
            self._elsewhere = f"other threads computed for {others:.1f} s, the one that called it for {own:.1f} s"
        if self._elsewhere:
            raise CaseError(
                f"step={self._name!r} works in another thread, which what counts does not follow ({self._elsewhere}); "
                "do the work in the thread that calls the step"
            )
        stepped, due = self._optimizer_steps, self._calls // self._said
        if stepped < due and (stepped or self._has_optimizer) and 2 * stepped <= due:
            every = f"every {round(self._calls / stepped)} calls" if stepped else f"not once in {self._calls} calls"
            raise CaseError(
                f"step={self._name!r} stepped its optimizer {every}, and says every {_ordinal(self._said)}; give the step "
                "an attribute `accumulation_steps`, so that whole optimizer steps are measured"
            )

    def _note_optimizer(self, optimizer: Optimizer, *_: Any) -> None:
        self._optimizer_steps += 1
        self._note_thread("an optimizer stepped in {}")

    def _note_forward(self, *_: Any) -> None:
        self._note_thread("the model ran in {}")

    def _note_thread(self, told: str) -> None:
        if threading.get_ident() != self._thread:
            self._elsewhere = told.format(threading.current_thread().name)


def _ordinal(calls: int) -> str:
    return "call" if calls == 1 else f"{calls} calls"


def _seconds_of_others() -> dict[int, float]:
    """CPU time of every thread that Python has started, but for this one."""
    clock: Callable[[int], int] | None = getattr(time, "pthread_getcpuclockid", None)
    found: dict[int, float] = {}
    for thread in threading.enumerate() if clock else ():
        ident = thread.ident
        # Threads that Python has not started, as autograd's, are followed by what counts.
        if ident is not None and ident != threading.get_ident() and not isinstance(thread, threading._DummyThread):
            with suppress(OSError):
                assert clock is not None
                found[ident] = time.clock_gettime(clock(ident))
    return found


def _grown(before: dict[int, float], after: dict[int, float]) -> list[float]:
    return [seconds - before.get(ident, 0.0) for ident, seconds in after.items()]
