"""A bisection from two lock files to the package that did it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.stacks.dependencies import implications, needs
from pytest_llmbench.stacks.index import between, known_versions
from pytest_llmbench.stacks.requirements import Requirements, changed_names, mixture
from pytest_llmbench.store.journal import Asked, Implied
from pytest_llmbench.trials.bisection.mixtures import Mixtures
from pytest_llmbench.trials.bisection.search import Answer, Found, search, search_versions
from pytest_llmbench.trials.bisection.signature import Signature, narrowed, signature_of
from pytest_llmbench.trials.pairs import judge_of

__all__ = ["Bisected", "Trial", "Versions", "bisect", "version_changes"]

Told = Callable[[str], None]


class Trial(msgspec.Struct, frozen=True):
    """One mixture that was asked about."""

    what: str
    """What in it is as in the bad environment."""
    answer: Answer
    told: str
    """How the metric moved, or why it could not be measured."""


class Versions(msgspec.Struct, frozen=True):
    """Between which versions of the culprit the change lies."""

    last_good: str
    first_bad: str
    untried: tuple[str, ...]
    """Versions between the two, that could not be measured."""


class Bisected(msgspec.Struct, frozen=True, kw_only=True):
    """What a bisection found, and how."""

    signature: Signature
    changed: tuple[str, ...]
    found: Found
    leader: str | None
    """The package to blame: the one found, or the one for which inseparable others came along."""
    trail: tuple[Trial, ...]
    versions: Versions | None = None

    @property
    def num_mixtures(self) -> int:
        """Those that were measured, between the two ends and no versions of the culprit."""
        return sum(trial.answer != "skip" and not trial.what.startswith(_VERSION) for trial in self.trail)


_VERSION = "version "


def bisect(mixtures: Mixtures, say: Told, *, versions: Sequence[str] | None = None) -> Bisected:
    """
    Find the package that carries the change between the two ends.

    Args:
        say: called with each finding.
        versions: of the culprit, to go through afterwards; empty for those that the index has, None for none.

    Raises:
        NothingToFollow: the ends do not differ.
        StackError: an end cannot be made.
    """
    changed = changed_names(mixtures.good, mixtures.bad)
    signature = signature_of(
        mixtures.measure_ends(_judge_of_ends(mixtures.journal.asked)), mixtures.journal.asked.metric
    )
    differences = version_changes(mixtures.good, mixtures.bad, changed)
    say(f"good -> bad: {signature}; {len(changed)} packages differ: {differences}")
    trail: list[Trial] = []

    def noted(what: str, asked: str, answered: tuple[Answer, str]) -> Answer:
        answer, told = answered
        trail.append(Trial(what, answer, told))
        say(f"{asked}: {_WORDS[answer]} ({told})")
        return answer

    def ask(names: frozenset[str]) -> Answer:
        what = ", ".join(sorted(names))
        return noted(what, f"with {what} as in bad", mixtures.ask(what, names, signature))

    hang_together = _implied(mixtures, changed)
    found = search(changed, hang_together.implied, ask)
    leader = _leader(found, hang_together)
    between_versions = None
    if versions is not None and leader is not None:
        between_versions = _versions(mixtures, found, leader, signature, known=versions, say=say, noted=noted)
    return Bisected(
        signature=signature,
        changed=changed,
        found=found,
        leader=leader,
        trail=tuple(trail),
        versions=between_versions,
    )


_WORDS: dict[Answer, str] = {"good": "as good", "bad": "as bad", "skip": "passed over"}


def _judge_of_ends(asked: Asked) -> Callable[[Measurement, Measurement], RowVerdict]:
    judge = judge_of(asked)
    metric = asked.metric
    return judge if metric is None else lambda a, b: narrowed(judge(a, b), metric)


def _implied(mixtures: Mixtures, changed: Sequence[str]) -> Implied:
    if mixtures.journal.implied is None:
        good, bad = (stack.interpreter for stack in mixtures.ends)
        mixtures.journal.add(Implied(implied=implications(changed, good, bad), needs=needs(changed, bad)))
    assert mixtures.journal.implied is not None
    return mixtures.journal.implied


def _leader(found: Found, hang_together: Implied) -> str | None:
    """The one suspect, or that of inseparable ones which none of the others needs: they came with it."""
    if found.how in ("together", "stuck"):
        return None
    needed = frozenset().union(*(hang_together.needs[name] for name in found.suspects))
    leaders = [name for name in found.suspects if name not in needed]
    return leaders[0] if len(leaders) == 1 else None


def _versions(
    mixtures: Mixtures,
    found: Found,
    leader: str,
    signature: Signature,
    *,
    known: Sequence[str],
    say: Told,
    noted: Callable[[str, str, tuple[Answer, str]], Answer],
) -> Versions:
    """The versions of the culprit between the two that the lock files have; what it has to come with is left open."""
    good, bad = mixtures.good.version(leader), mixtures.bad.version(leader)
    if good is None or bad is None:
        return Versions(good or "none", bad or "none", ())
    lines = mixture(mixtures.good, mixtures.bad, found.mixture).without_hashes().lines
    lines |= {name: name for name in found.suspects if "/" not in name}  # else it is a line without a name
    options = mixture(mixtures.good, mixtures.bad, ()).options
    known = known or known_versions(leader, mixtures.ends[0].python, options)
    candidates = between(known, good, bad)
    say(f"between {leader} {good} and {bad}: {', '.join(candidates) or 'no version'}")

    def ask(version: str) -> Answer:
        requirements = Requirements(options, lines | {leader: f"{leader}=={version}"})
        name = f"{leader} {version}"
        return noted(f"{_VERSION}{version}", name, mixtures.ask_about(name, requirements, signature))

    last_good, first_bad = search_versions(candidates, ask)
    inside = between(candidates, last_good or good, first_bad or bad)
    return Versions(last_good or good, first_bad or bad, inside)


def version_changes(good: Requirements, bad: Requirements, names: Iterable[str]) -> str:
    """As "torch 2.7 -> 2.8, peft (none) -> 0.17"."""
    return ", ".join(f"{name} {good.version(name) or '(none)'} -> {bad.version(name) or '(none)'}" for name in names)
