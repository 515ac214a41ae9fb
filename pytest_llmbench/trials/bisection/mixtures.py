"""Environments that lie between a good and a bad lock file: made, measured against the good one, and removed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from contextlib import ExitStack
from typing import Self

from pytest_llmbench.stacks.cache import cache_folder
from pytest_llmbench.stacks.installer import InstallError
from pytest_llmbench.stacks.requirements import Requirements, mixture
from pytest_llmbench.stacks.stack import Stack, build_environment, open_environment
from pytest_llmbench.store.journal import Journal, Note
from pytest_llmbench.trials.bisection.search import Answer
from pytest_llmbench.trials.bisection.signature import Signature
from pytest_llmbench.trials.pairs import Held, Judge, measure
from pytest_llmbench.trials.progress import Progress
from pytest_llmbench.trials.session import sides_of
from pytest_llmbench.trials.sides import Sides, visible_devices

__all__ = ["GOOD", "Mixtures"]

GOOD = "good"
BAD = "bad"


class Mixtures:
    """
    The environments of one bisection.

    They lie in a folder of their own, which is removed at the end, and each is there only as long as it is
    measured. What the journal has need not be made again.

    Args:
        keep: leave the environments where they are.
    """

    def __init__(
        self, journal: Journal, good: Requirements, bad: Requirements, progress: Progress, *, keep: bool = False
    ) -> None:
        self.journal = journal
        self.good = good
        self.bad = bad
        self.keep = keep
        self._progress = progress
        key = hashlib.sha256(
            f"{good.text}\0{bad.text}\0{journal.path and journal.path.absolute()}".encode()
        ).hexdigest()[:12]
        self.folder = cache_folder() / "bisect" / key
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
        return self._stack(GOOD, self.good), self._stack(BAD, self.bad)

    def measure_ends(self, judge: Judge) -> Held:
        """The bad environment against the good one."""
        return self._measured(BAD, self.bad, judge)

    def ask(self, name: str, names: Collection[str], signature: Signature) -> tuple[Answer, str]:
        """
        Whether the mixture in which *names* are as in the bad environment has the change, and that in words.

        Args:
            name: of the mixture in the journal.
        """
        return self.ask_about(name, mixture(self.good, self.bad, names), signature)

    def ask_about(self, name: str, requirements: Requirements, signature: Signature) -> tuple[Answer, str]:
        """Ask as `ask` does, for any requirements."""
        if (why := self.journal.note(name)) is not None:
            return "skip", why
        try:
            settled = self._measured(name, requirements, signature.judge())
        except InstallError as error:
            why = f"cannot be installed: {str(error).splitlines()[-1]}"
            self.journal.add(Note(case=name, why=why))
            return "skip", why
        finally:
            self._remove(name)
        return signature.answer(settled)

    def _measured(self, name: str, requirements: Requirements, judge: Judge) -> Held:
        asked = self.journal.asked
        self._progress.start(name)

        def sides() -> Sides:
            return self._beside_good(self._stack(name, requirements))

        return measure(name, asked.selected[0].case, self.journal, sides, judge=judge, progress=self._progress)

    def _beside_good(self, other: Stack) -> Sides:
        """The good environment stays warm all the time."""
        asked = self.journal.asked
        if self._sides is None:
            gpus = visible_devices(asked.workload.device)
            good = self._stack(GOOD, self.good)
            self._sides = self._open.enter_context(sides_of(asked, good, other, gpus, self._progress))
        self._sides.change_b(other)
        return self._sides

    def _stack(self, name: str, requirements: Requirements) -> Stack:
        if name not in self._stacks:
            key = hashlib.sha256(requirements.text.encode()).hexdigest()[:12]
            folder = self.folder / key
            self._progress.say(f"installing {name}")
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"{key}.txt"
            file.touch(mode=0o600)  # it may have credentials
            file.write_text(requirements.text, encoding="utf-8")
            source = self.journal.asked.source
            python = build_environment(folder, file, source, self._progress.say)
            self._stacks[name] = open_environment(name, python, self._progress.say, source.installer)
        return self._stacks[name]

    def _remove(self, name: str) -> None:
        stack = self._stacks.pop(name, None)
        if stack is not None and not self.keep:
            shutil.rmtree(stack.python.parent.parent, ignore_errors=True)
