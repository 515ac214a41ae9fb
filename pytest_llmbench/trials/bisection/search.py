"""
The search for one culprit: which mixture of two environments to ask about next, and what the answers leave.

Pure: how a mixture is made and measured is the caller's, and an answer may be "skip". At most
ceil(log2(n)) answers narrow n packages down to one, and one more shows that it does it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

__all__ = ["Answer", "Found", "search", "search_versions"]

Answer = Literal["good", "bad", "skip"]

MAX_SPLITS = 12
"""So many ways of halving the suspects are tried, if mixtures of them cannot be measured."""


class Found(msgspec.Struct, frozen=True):
    """What a search came to."""

    suspects: tuple[str, ...]
    """Packages of which one carries the change, or which do it together; one if the search ended well."""
    how: Literal["alone", "inseparable", "left", "together", "stuck"]
    """
    `alone`: shown by a mixture of its own. `inseparable`: the same, of packages that need each other's new
    versions. `left`: all others were cleared, and a mixture of its own cannot be measured. `together`: it does
    nothing by itself. `stuck`: no mixture that would tell the suspects apart could be measured.
    """
    mixture: frozenset[str]
    """The smallest set of changed packages that was shown to carry the change."""


def search(
    changed: Sequence[str], implied: Mapping[str, frozenset[str]], ask: Callable[[frozenset[str]], Answer]
) -> Found:
    """
    Narrow *changed* down to what carries the difference between all of them and none.

    Args:
        implied: for each package what has to change with it, itself included.
        ask: measures the mixture in which these packages are as in the bad environment.
    """
    suspects = tuple(changed)
    smallest = frozenset(changed)
    while len(suspects) > 1:
        for tried, mixture in enumerate(_splits(suspects, changed, implied)):
            answer = ask(mixture) if tried < MAX_SPLITS else "skip"
            if answer == "bad":
                suspects = tuple(name for name in suspects if name in mixture)
                smallest = min(smallest, mixture, key=len)
            elif answer == "good":
                suspects = tuple(name for name in suspects if name not in mixture)
            if answer != "skip":
                break
        else:
            if not all(implied[name] >= set(suspects) for name in suspects):
                return Found(suspects, "stuck", smallest)
            break
    own = frozenset().union(*(implied[name] for name in suspects))
    answer = "bad" if smallest == own else ask(own)
    if answer == "bad":
        return Found(suspects, "alone" if len(suspects) == 1 else "inseparable", own)
    return Found(suspects, "together" if answer == "good" else "left", smallest)


def search_versions(versions: Sequence[str], ask: Callable[[str], Answer]) -> tuple[str | None, str | None]:
    """
    The last good and the first bad version.

    Args:
        versions: those strictly between a good and a bad one, in order; it is taken that once bad they stay bad.
        ask: measures one of them; what cannot be measured is passed over.

    Returns:
        None stands for the good version before them, or the bad one after them.
    """
    left = list(versions)
    last_good, first_bad = None, None
    while left:
        middle = len(left) // 2
        for version in sorted(left, key=lambda one: abs(left.index(one) - middle)):
            answer = ask(version)
            if answer == "bad":
                first_bad, left = version, left[: left.index(version)]
            elif answer == "good":
                last_good, left = version, left[left.index(version) + 1 :]
            if answer != "skip":
                break
        else:
            break
    return last_good, first_bad


def _splits(
    suspects: Sequence[str], changed: Sequence[str], implied: Mapping[str, frozenset[str]]
) -> Iterator[frozenset[str]]:
    """
    Mixtures that hold some suspects and not others, the most even ones first.

    Each is the union of what some neighbours in the list imply; where that cannot be measured, what was cleared
    may be needed beside it.
    """
    cleared = frozenset(changed) - frozenset(suspects)
    found: dict[frozenset[str], None] = {}
    for start in range(len(suspects)):
        mixture: frozenset[str] = frozenset()
        for offset in range(len(suspects)):
            mixture |= implied[suspects[(start + offset) % len(suspects)]]
            if set(suspects) <= mixture:
                break
            found[mixture] = None
    beside = {mixture.union(*(implied[name] for name in cleared)): None for mixture in found if cleared}
    useful = [mixture for mixture in found | beside if not set(suspects) <= mixture]

    def unevenness(mixture: frozenset[str]) -> tuple[float, int]:
        return abs(len(mixture & set(suspects)) - len(suspects) / 2), len(mixture)

    yield from sorted(useful, key=unevenness)
