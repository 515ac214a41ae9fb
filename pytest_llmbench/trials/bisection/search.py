"""
The search for one culprit: what to ask about next, and what the answers leave.

A set of packages is narrowed by mixtures of two environments; what stands in an order, versions or commits, is
halved. Pure: how a candidate is made and measured is the caller's, and an answer may be "skip". At most
ceil(log2(n)) answers narrow n packages down to one, and one more shows that it does it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

__all__ = ["Answer", "Found", "Line", "Range", "halve", "search"]

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


class Range(Protocol):
    """Candidates in an order, between a good and a bad one; it is taken that once bad they stay bad."""

    def middle(self) -> str | None:
        """The candidate to ask about next; None if no answer could tell more."""

    def answer(self, candidate: str, answer: Answer) -> None:
        """Leave out what the answer rules out."""


def halve(candidates: Range, ask: Callable[[str], Answer]) -> None:
    """
    Ask about the middle of what is left, until no answer could tell more.

    Args:
        ask: measures a candidate; what cannot be measured is passed over.
    """
    while (candidate := candidates.middle()) is not None:
        candidates.answer(candidate, ask(candidate))


class Line:
    """
    Versions strictly between a good and a bad one, one after the other.

    Attributes:
        last_good, first_bad: None stands for the good version before them, or the bad one after them.
        left: those between the two.
    """

    def __init__(self, versions: Sequence[str]) -> None:
        self.last_good: str | None = None
        self.first_bad: str | None = None
        self.left = tuple(versions)
        self._skipped: set[str] = set()

    def middle(self) -> str | None:
        middle = len(self.left) // 2
        distance = {version: abs(place - middle) for place, version in enumerate(self.left)}
        return min((one for one in self.left if one not in self._skipped), key=distance.__getitem__, default=None)

    def answer(self, candidate: str, answer: Answer) -> None:
        place = self.left.index(candidate)
        match answer:
            case "good":
                self.last_good, self.left = candidate, self.left[place + 1 :]
            case "bad":
                self.first_bad, self.left = candidate, self.left[:place]
            case "skip":
                self._skipped.add(candidate)


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
