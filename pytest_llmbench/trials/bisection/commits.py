"""
The commits of a package between a good and a bad one, halved by git's own bisection.

Git decides which commit comes next, merges and skipped commits included. It answers alike to the same answers, so
that a bisection is gone on with by giving it those of the journal again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pytest_llmbench.stacks import StackError
from pytest_llmbench.stacks.history import Commit, History
from pytest_llmbench.trials.bisection.search import Answer

__all__ = ["CommitRange", "ends_of"]

_GOODS = "--glob=refs/bisect/good-*"
_STEPS = re.compile(r"^bisect_steps=(\d+)$", re.MULTILINE)


def ends_of(history: History, good: str, bad: str) -> tuple[Commit, Commit]:
    """
    The two commits that revisions mean.

    Raises:
        StackError: there is no such commit, or the good one does not lead to the bad one.
    """
    ends = history.commit(good), history.commit(bad)
    if ends[0] == ends[1]:
        raise StackError(f"{good} and {bad} are the same commit, {ends[0].short}")
    base = history.merge_base(*ends)
    if base == ends[0]:
        return ends
    told = f"{good} ({ends[0].short}) is no ancestor of {bad} ({ends[1].short})"
    if base is None:
        raise StackError(f"{told}: they have no commit in common")
    if base == ends[1]:
        raise StackError(f"{told}, but the other way round; exchange --good and --bad")
    raise StackError(f"{told}; they part at {base}: bisect from there, --good {base.short}")


class CommitRange:
    """
    Commits that lead from a good to a bad one, as `git bisect` goes through them.

    Args:
        folder: for its notes; it is not there yet.

    Raises:
        StackError: git cannot begin.
    """

    def __init__(self, history: History, good: Commit, bad: Commit, folder: Path) -> None:
        self._git: Callable[..., str] = history.check_out(bad, folder, files=False)
        self._git("bisect", "start", "--no-checkout", bad.hash, good.hash)
        self._known = {good.hash, bad.hash}

    @property
    def suspects(self) -> tuple[str, ...]:
        """Hashes of those that may be the first bad one, the newest first; none if git found that no one can be."""
        return tuple(self._git("rev-list", "refs/bisect/bad", "--not", _GOODS).split())

    @property
    def steps_left(self) -> int:
        """Answers that are still needed, as git estimates it."""
        found = _STEPS.search(self._git("rev-list", "--bisect-vars", "refs/bisect/bad", "--not", _GOODS))
        return int(found[1]) if found else 0

    def middle(self) -> str | None:
        # Git names the next one there, and leaves it as it is where it has nothing more to ask.
        head = self._git("rev-parse", "--verify", "BISECT_HEAD").strip()
        return None if head in self._known else head

    def answer(self, candidate: str, answer: Answer) -> None:
        self._known.add(candidate)
        try:
            self._git("bisect", answer, candidate)
        except StackError:
            if self.middle() is not None:  # else it has said that nothing more can be told
                raise
