"""What a bisection found, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from pytest_llmbench.schema.units import counted
from pytest_llmbench.stacks.requirements import Requirements
from pytest_llmbench.trials.bisection.bisect import Bisected, BisectedCommits, Commits, Trial, version_changes

__all__ = ["FORMAT", "commit_sentences", "sentences", "to_json"]

FORMAT = 1

_MARKS = {"good": "good", "bad": "BAD ", "skip": "skip"}


def sentences(bisected: Bisected, good: Requirements, bad: Requirements) -> Iterator[str]:
    """The trail, a line for each mixture, and the finding."""
    yield f"followed: {bisected.signature}"
    yield from _trail(bisected.trail)
    names = bisected.found.suspects
    told = version_changes(good, bad, names)
    count = f"{counted(bisected.num_mixtures, 'mixture')} of {len(bisected.changed)} changed packages"
    match bisected.found.how:
        case "alone":
            yield f"{told} does it ({count})"
            beside = sorted(bisected.found.mixture - set(names))
            if beside:
                yield f"it needs the new {', '.join(beside)}, which alone {'does' if len(beside) == 1 else 'do'} not"
        case "inseparable":
            yield f"these do it, and cannot be told apart, since each needs the others' new version: {told} ({count})"
            if bisected.leader is not None:
                yield f"none of the others needs {bisected.leader}: they came with it"
        case "left":
            yield f"{told} is what is left ({count}); a mixture with nothing else changed cannot be measured"
        case "together":
            yield f"no package does it alone; the smallest mixture that does: {', '.join(sorted(bisected.found.mixture))}"
        case "stuck":
            yield f"one of these does it, and no mixture that tells more could be measured: {told} ({count})"
    if bisected.versions is not None:
        between = bisected.versions
        untried = f"; not measured between them: {', '.join(between.untried)}" if between.untried else ""
        yield f"last good version {between.last_good}, first bad version {between.first_bad}{untried}"
    if bisected.commits is not None:
        yield from _of_commits(bisected.commits)
    if bisected.no_commits:
        yield f"its commits could not be gone through: {bisected.no_commits}"


def commit_sentences(bisected: BisectedCommits) -> Iterator[str]:
    """The trail, a line for each commit, and the finding."""
    yield f"followed: {bisected.signature}"
    yield from _of_commits(bisected.commits)


def to_json(bisected: Bisected | BisectedCommits) -> str:
    """Indented; the fields are those of `trials.bisection.bisect.Bisected`, or of `BisectedCommits`."""
    document = {
        "format": FORMAT,
        **{name: getattr(bisected, name) for name in bisected.__struct_fields__ if name != "found"},
    }
    if isinstance(bisected, Bisected):
        document["found"] = {
            "packages": bisected.found.suspects,
            "how": bisected.found.how,
            "mixture": sorted(bisected.found.mixture),
        }
        document["mixtures_measured"] = bisected.num_mixtures
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _trail(trials: Iterable[Trial]) -> Iterator[str]:
    for trial in trials:
        yield f"  {_MARKS[trial.answer]}  {trial.what}: {trial.told}"


def _of_commits(commits: Commits) -> Iterator[str]:
    yield from _trail(commits.trail)
    count = f"{counted(len(commits.trail), 'step')} among {counted(commits.num_commits, 'commit')}"
    match commits.suspects:
        case ():
            yield f"no commit between {commits.good} and {commits.bad} brought it: where the two part, it is bad already ({count})"
        case (commit,):
            yield f"{commit.hash} is the first bad commit of {commits.package} ({count})"
            yield f"  author   {commit.author}, {commit.date}"
            yield f"  subject  {commit.subject}"
            if commits.change:
                yield f"  change   {commits.change}"
        case several:
            yield f"the first bad commit of {commits.package} could be any of these ({count}):"
            for commit in several:
                yield f"  {commit}, {commit.author}, {commit.date}"
