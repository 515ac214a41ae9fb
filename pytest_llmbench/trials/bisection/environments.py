"""Environments between a good and a bad one: made, measured against the good one, and removed."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from typing import Self

from pytest_llmbench.judge.plan import Plan
from pytest_llmbench.stacks.cache import cache_folder
from pytest_llmbench.stacks.installer import InstallError
from pytest_llmbench.stacks.recipe import Recipe
from pytest_llmbench.stacks.stack import Stack, open_environment
from pytest_llmbench.store.journal import Journal, Note
from pytest_llmbench.trials.bisection.search import Answer
from pytest_llmbench.trials.bisection.signature import Signature
from pytest_llmbench.trials.pairs import Held, Judge, measure
from pytest_llmbench.trials.progress import Progress
from pytest_llmbench.trials.session import sides_of
from pytest_llmbench.trials.sides import Sides, visible_devices

__all__ = ["BAD", "GOOD", "Environments"]

GOOD = "good"
BAD = "bad"


class Environments:
    """
    The environments of one bisection.

    They lie in a folder of their own, which is removed at the end, and each is there only as long as it is
    measured. What the journal has need not be made again.

    Args:
        key: names what is bisected; with the journal it makes the folder's name.
        keep: leave the environments where they are.
    """

    def __init__(self, journal: Journal, key: str, progress: Progress, *, keep: bool = False) -> None:
        self.journal = journal
        self.keep = keep
        self.progress = progress
        named = f"{key}\0{journal.path and journal.path.absolute()}"
        self.folder = cache_folder() / "bisect" / hashlib.sha256(named.encode()).hexdigest()[:12]
        self._ends: dict[str, Recipe] = {}
        self._stacks: dict[str, Stack] = {}
        self._sides: Sides | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)  # what a run that was killed has left
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def ends(self) -> tuple[Stack, Stack]:
        """
        The good and the bad environment.

        Raises:
            StackError: one of them cannot be made.
        """
        good, bad = (self._stack(name, self._ends[name]) for name in (GOOD, BAD))
        return good, bad

    def measure_ends(self, good: Recipe, bad: Recipe, judge: Judge) -> Held:
        """The bad environment against the good one."""
        self._ends = {GOOD: good, BAD: bad}
        return self._measured(BAD, bad, judge, self.journal.asked.plan)

    def ask(self, name: str, recipe: Recipe, signature: Signature, told_as: str | None = None) -> tuple[Answer, str]:
        """
        Whether an environment has the change that the bad one has, and that in words.

        Args:
            name: of the environment in the journal.
            told_as: what a waiting person sees in place of *name*.
        """
        if (why := self.journal.note(name)) is not None:
            return "skip", why
        try:
            settled = self._measured(name, recipe, signature.judge(), signature.plan(self.journal.asked.plan), told_as)
        except InstallError as error:
            why = f"cannot be installed: {str(error).splitlines()[-1]}"
            self.journal.add(Note(case=name, why=why))
            return "skip", why
        finally:
            self._remove(name)
        return signature.answer(settled)

    def _measured(self, name: str, recipe: Recipe, judge: Judge, plan: Plan, told_as: str | None = None) -> Held:
        asked = self.journal.asked
        self.progress.start(told_as or name)

        def sides() -> Sides:
            return self._beside_good(self._stack(name, recipe, told_as))

        case = asked.selected[0].case
        return measure(name, case, self.journal, sides, judge=judge, progress=self.progress, plan=plan)

    def _beside_good(self, other: Stack) -> Sides:
        """The good environment stays warm all the time."""
        asked = self.journal.asked
        if self._sides is None:
            gpus = visible_devices(asked.workload.device)
            good = self._stack(GOOD, self._ends[GOOD])
            self._sides = self._open.enter_context(sides_of(asked, good, other, gpus, self.progress))
        self._sides.change_b(other)
        return self._sides

    def _stack(self, name: str, recipe: Recipe, told_as: str | None = None) -> Stack:
        if name not in self._stacks:
            self.progress.say(f"installing {told_as or name}")
            source = self.journal.asked.source
            folder = self.folder / hashlib.sha256(recipe.key.encode()).hexdigest()[:12]
            python = recipe.build(folder, source, self.progress.say)
            self._stacks[name] = open_environment(name, python, self.progress.say, source.installer)
        return self._stacks[name]

    def _remove(self, name: str) -> None:
        stack = self._stacks.pop(name, None)
        if stack is not None and not self.keep:
            shutil.rmtree(stack.python.parent.parent, ignore_errors=True)
