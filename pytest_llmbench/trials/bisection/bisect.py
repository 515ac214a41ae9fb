"""A bisection from two lock files to the package that did it, and from two commits of a package to the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.stacks import StackError
from pytest_llmbench.stacks.dependencies import implications, needs
from pytest_llmbench.stacks.history import Commit, History
from pytest_llmbench.stacks.index import between, known_versions
from pytest_llmbench.stacks.recipe import AtCommit, Listed, Recipe
from pytest_llmbench.stacks.requirements import Requirements, changed_names, mixture
from pytest_llmbench.store.journal import Asked, Implied
from pytest_llmbench.store.pair import merged
from pytest_llmbench.trials.bisection.commits import CommitRange
from pytest_llmbench.trials.bisection.environments import BAD, Environments
from pytest_llmbench.trials.bisection.search import Answer, Found, Line, halve, search
from pytest_llmbench.trials.bisection.signature import NothingToFollow, Signature, narrowed, signature_of
from pytest_llmbench.trials.pairs import judge_of

__all__ = ["Bisected", "BisectedCommits", "Commits", "Trial", "Versions", "bisect", "bisect_commits", "version_changes"]

Told = Callable[[str], None]


class Trial(msgspec.Struct, frozen=True):
    """One environment that was asked about."""

    what: str
    """What in it is as in the bad environment: packages, a version, or a commit."""
    answer: Answer
    told: str
    """How the metric moved, or why it could not be measured."""


class Versions(msgspec.Struct, frozen=True):
    """Between which versions of the culprit the change lies."""

    last_good: str
    first_bad: str
    untried: tuple[str, ...]
    """Versions between the two, that could not be measured."""


class Commits(msgspec.Struct, frozen=True, kw_only=True):
    """Which commit of a package it was."""

    package: str
    good: Commit
    bad: Commit
    num_commits: int
    """Commits that lead from the good one to the bad one, which is one of them."""
    suspects: tuple[Commit, ...]
    """The first bad commit; several if some could not be measured, and none if what both ends come from is bad."""
    change: str = ""
    """What the one suspect did to the metric, and in which functions."""
    trail: tuple[Trial, ...]


class Bisected(msgspec.Struct, frozen=True, kw_only=True):
    """What a bisection found, and how."""

    signature: Signature
    changed: tuple[str, ...]
    found: Found
    leader: str | None
    """The package to blame: the one found, or the one for which inseparable others came along."""
    trail: tuple[Trial, ...]
    versions: Versions | None = None
    commits: Commits | None = None
    """Its commits between the two versions, if they were gone through."""
    no_commits: str = ""
    """Why they could not be."""

    @property
    def num_mixtures(self) -> int:
        """Those that were measured, between the two ends and no versions of the culprit."""
        return sum(trial.answer != "skip" and not trial.what.startswith(_VERSION) for trial in self.trail)

    @property
    def is_found(self) -> bool:
        """Whether it is known what did it, as closely as it was asked for."""
        is_commit = self.commits is not None and len(self.commits.suspects) == 1
        return (
            self.found.how in ("alone", "inseparable", "left")
            and not self.no_commits
            and (self.commits is None or is_commit)
        )


class BisectedCommits(msgspec.Struct, frozen=True, kw_only=True):
    """What a bisection of one package's commits found."""

    signature: Signature
    commits: Commits

    @property
    def is_found(self) -> bool:
        """Whether it is one commit."""
        return len(self.commits.suspects) == 1


_VERSION = "version "
_WORDS: dict[Answer, str] = {"good": "as good", "bad": "as bad", "skip": "passed over"}


class _Trail:
    """What was asked about so far; each answer is said."""

    def __init__(self, say: Told) -> None:
        self.trials: list[Trial] = []
        self._say = say

    def note(self, what: str, asked: str, answered: tuple[Answer, str]) -> Answer:
        answer, told = answered
        self.trials.append(Trial(what, answer, told))
        self._say(f"{asked}: {_WORDS[answer]} ({told})")
        return answer


def bisect(
    environments: Environments,
    good: Requirements,
    bad: Requirements,
    *,
    versions: Sequence[str] | None = None,
    history: History | None = None,
) -> Bisected:
    """
    Find the package that carries the change between the two ends.

    Args:
        versions: of the culprit, to go through afterwards; empty for those that the index has, None for none.
        history: of the culprit, to go through between the two versions.

    Raises:
        NothingToFollow: the ends do not differ.
        StackError: an end cannot be made.
    """
    say = environments.progress.line
    changed = changed_names(good, bad)
    signature = _signature(environments, Listed(good), Listed(bad))
    say(f"good -> bad: {signature}; {len(changed)} packages differ: {version_changes(good, bad, changed)}")
    trail = _Trail(say)

    def ask(names: frozenset[str]) -> Answer:
        what = ", ".join(sorted(names))
        answered = environments.ask(what, Listed(mixture(good, bad, names)), signature)
        return trail.note(what, f"with {what} as in bad", answered)

    hang_together = _implied(environments, changed)
    found = search(changed, hang_together.implied, ask)
    leader = _leader(found, hang_together)
    bisected = Bisected(signature=signature, changed=changed, found=found, leader=leader, trail=())
    if leader is not None:
        between_versions = Versions(good.version(leader) or "none", bad.version(leader) or "none", ())
        beside = _beside(found, good, bad)
        if versions is not None and good.version(leader) and bad.version(leader):
            between_versions = _versions(
                environments, signature, leader, between_versions, known=versions, beside=beside, trail=trail
            )
        if versions is not None:
            bisected = msgspec.structs.replace(bisected, versions=between_versions)
        if history is not None:
            try:
                ends = [history.tagged(leader, one) for one in (between_versions.last_good, between_versions.first_bad)]
                commits = _commits(environments, signature, history, leader, (ends[0], ends[1]), beside=beside)
                bisected = msgspec.structs.replace(bisected, commits=commits)
            except StackError as error:
                bisected = msgspec.structs.replace(bisected, no_commits=str(error))
    elif history is not None:
        bisected = msgspec.structs.replace(bisected, no_commits="it is not one package that did it")
    return msgspec.structs.replace(bisected, trail=tuple(trail.trials))


def bisect_commits(
    environments: Environments, history: History, package: str, ends: tuple[Commit, Commit]
) -> BisectedCommits:
    """
    Find the commit of a package that made the metric worse.

    Raises:
        NothingToFollow: the bad end is not worse than the good one.
        StackError: an end cannot be made.
    """
    history.clone_into(environments.folder)
    good, bad = (AtCommit(history=history, package=package, commit=commit) for commit in ends)
    signature = _signature(environments, good, bad)
    if signature.status == "improved":
        raise NothingToFollow(f"bad is better than good, and not worse: {signature}; bisect another case or --metric")
    environments.progress.line(f"good -> bad: {signature}")
    commits = _commits(environments, signature, history, package, ends)
    return BisectedCommits(signature=signature, commits=commits)


def _signature(environments: Environments, good: Recipe, bad: Recipe) -> Signature:
    """What to follow, by measuring the bad end against the good one."""
    asked = environments.journal.asked
    return signature_of(environments.measure_ends(good, bad, _judge_of_ends(asked)), asked.metric)


def _judge_of_ends(asked: Asked) -> Callable[[Measurement, Measurement], RowVerdict]:
    judge = judge_of(asked)
    metric = asked.metric
    return judge if metric is None else lambda a, b: narrowed(judge(a, b), metric)


def _implied(environments: Environments, changed: Sequence[str]) -> Implied:
    journal = environments.journal
    if journal.implied is None:
        good, bad = (stack.interpreter for stack in environments.ends)
        journal.add(Implied(implied=implications(changed, good, bad), needs=needs(changed, bad)))
    assert journal.implied is not None
    return journal.implied


def _leader(found: Found, hang_together: Implied) -> str | None:
    """The one suspect, or that of inseparable ones which none of the others needs: they came with it."""
    if found.how in ("together", "stuck"):
        return None
    needed = frozenset().union(*(hang_together.needs[name] for name in found.suspects))
    leaders = [name for name in found.suspects if name not in needed]
    return leaders[0] if len(leaders) == 1 else None


def _beside(found: Found, good: Requirements, bad: Requirements) -> Requirements:
    """What is installed beside a version of the culprit; what that has to come with is left open."""
    lines = mixture(good, bad, found.mixture).without_hashes().lines
    lines |= {name: name for name in found.suspects if "/" not in name}  # else it is a line without a name
    return Requirements(mixture(good, bad, ()).options, lines)


def _versions(
    environments: Environments,
    signature: Signature,
    leader: str,
    ends: Versions,
    *,
    known: Sequence[str],
    beside: Requirements,
    trail: _Trail,
) -> Versions:
    """The versions of the culprit between the two that the lock files have."""
    good, bad = ends.last_good, ends.first_bad
    known = known or known_versions(leader, environments.ends[0].python, beside.options)
    candidates = between(known, good, bad)
    environments.progress.line(f"between {leader} {good} and {bad}: {', '.join(candidates) or 'no version'}")

    def ask(version: str) -> Answer:
        requirements = Requirements(beside.options, beside.lines | {leader: f"{leader}=={version}"})
        name = f"{leader} {version}"
        return trail.note(f"{_VERSION}{version}", name, environments.ask(name, Listed(requirements), signature))

    line = Line(candidates)
    halve(line, ask)
    return Versions(line.last_good or good, line.first_bad or bad, line.left)


def _commits(
    environments: Environments,
    signature: Signature,
    history: History,
    package: str,
    ends: tuple[Commit, Commit],
    *,
    beside: Requirements | None = None,
) -> Commits:
    """The commits of a package between a good and a bad one."""
    progress = environments.progress
    history.clone_into(environments.folder)
    good, bad = ends
    commits = CommitRange(history, good, bad, environments.folder / "history")
    num_commits = len(commits.suspects)
    progress.line(f"{package} {good} -> {bad}: {num_commits} commits, about {commits.steps_left} steps")
    trail = _Trail(progress.line)

    def ask(candidate: str) -> Answer:
        commit = history.commit(candidate)
        number = len(trail.trials) + 1
        step = f"step {number} of about {max(number, number + commits.steps_left - 1)}, {commit}"
        recipe = AtCommit(history=history, package=package, commit=commit, beside=beside)
        answered = environments.ask(_name(candidate), recipe, signature, told_as=step)
        return trail.note(str(commit), commit.short, answered)

    halve(commits, ask)
    suspects = tuple(map(history.commit, commits.suspects))
    return Commits(
        package=package,
        good=good,
        bad=bad,
        num_commits=num_commits,
        suspects=suspects,
        change=_change(environments, history, suspects[0], bad, signature) if len(suspects) == 1 else "",
        trail=tuple(trail.trials),
    )


def _name(commit: str) -> str:
    """What a commit is called in the journal."""
    return f"commit {commit}"


def _change(environments: Environments, history: History, first_bad: Commit, bad: Commit, signature: Signature) -> str:
    """What the first bad commit did, beside a parent that was measured, else beside the good end."""
    journal = environments.journal
    pairs = journal.pairs(_name(first_bad.hash)) or (journal.pairs(BAD) if first_bad == bad else [])
    if not pairs:
        return ""
    then, now = merged(pairs)
    measured = (journal.pairs(_name(parent)) for parent in history.parents(first_bad))
    then = next((merged(taken)[1] for taken in measured if taken), then)
    return signature.change_text(then, now)


def version_changes(good: Requirements, bad: Requirements, names: Iterable[str]) -> str:
    """As "torch 2.7 -> 2.8, peft (none) -> 0.17"."""
    return ", ".join(f"{name} {good.version(name) or '(none)'} -> {bad.version(name) or '(none)'}" for name in names)
