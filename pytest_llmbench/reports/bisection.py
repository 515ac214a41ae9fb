"""What a bisection found, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pytest_llmbench.schema.units import counted
from pytest_llmbench.stacks.requirements import Requirements
from pytest_llmbench.trials.bisection.bisect import Bisected, version_changes

__all__ = ["FORMAT", "sentences", "to_json"]

FORMAT = 1


def sentences(bisected: Bisected, good: Requirements, bad: Requirements) -> Iterator[str]:
    """The trail, a line for each mixture, and the finding."""
    marks = {"good": "good", "bad": "BAD ", "skip": "skip"}
    yield f"followed: {bisected.signature}"
    for trial in bisected.trail:
        yield f"  {marks[trial.answer]}  {trial.what}: {trial.told}"
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


def to_json(bisected: Bisected) -> str:
    """Indented; the fields are those of `trials.bisection.bisect.Bisected`."""
    document = {
        "format": FORMAT,
        **{name: getattr(bisected, name) for name in bisected.__struct_fields__ if name != "found"},
        "found": {
            "packages": bisected.found.suspects,
            "how": bisected.found.how,
            "mixture": sorted(bisected.found.mixture),
        },
        "mixtures_measured": bisected.num_mixtures,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
