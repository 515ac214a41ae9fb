"""
What one optimizer step did, by name and by place: operators, Python functions, and the memory that it kept.

A place is a function, as `peft/tuners/lora/layer.py:Linear.forward`; in a backward pass that of the forward operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Annotated, Literal, NamedTuple

import msgspec

__all__ = [
    "MOST_BYTES",
    "OTHER",
    "TAKEN",
    "Call",
    "Operation",
    "Part",
    "Profile",
    "add_to",
    "as_numbers",
    "bounded",
    "file_and_function",
]

MOST_BYTES = 11 * 2**10
"""A profile takes no more as compact JSON, which is 16 KiB in the indented lines of a baseline file."""

OTHER = "other"
"""Stands for the entries that have no room."""

TAKEN = "taken as a value"
"""In the place of an operator: what Python read of a tensor."""

Numbers = Annotated[str, msgspec.Meta(pattern=r"^\d+( \d+)*$")]
"""Several counts in one string, so that an entry is one line of a file."""


class Operation(NamedTuple):
    """What an operator did at one place."""

    runs: int = 0
    moved_bytes: int = 0
    """Read and written, by the shapes of its tensors."""
    flops: int = 0
    reads: int = 0
    """Values that the host read."""


class Call(NamedTuple):
    """What Python did at one place, torch's functions that were called from there included."""

    calls: int = 0
    instructions: int = 0
    """Bytecodes."""


Listing = Literal["python", "inner"]
LISTINGS: tuple[Listing, ...] = ("python", "inner")


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either the micro-batch or the optimizer step that follows: they recur at different rates."""

    operators: dict[str, dict[str, Numbers]] = {}
    """By place, by operator: `Operation`. Operators of torch are named without "aten::"."""
    python: dict[str, dict[str, Numbers]] = {}
    """By file, by function: `Call`."""
    inner: dict[str, dict[str, Numbers]] = {}
    """As `python`, of torch and of the standard library: the places in `python` include them."""

    def operations(self) -> Iterator[tuple[str, str, Operation]]:
        """Place, operator, and what it did there."""
        for place, operators in self.operators.items():
            for operator, text in operators.items():
                yield place, operator, Operation(*map(int, text.split()))

    def calls(self, listing: Listing) -> Iterator[tuple[str, Call]]:
        """Place, and what Python did there."""
        listed: dict[str, dict[str, Numbers]] = getattr(self, listing)
        for file, functions in listed.items():
            for function, text in functions.items():
                yield f"{file}:{function}" if function else file, Call(*map(int, text.split()))


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One micro-batch and one optimizer step."""

    samples: int
    """Samples of the micro-batch."""
    samples_per_step: int
    """Samples of all micro-batches before an optimizer step."""
    micro_batch: Part = Part()
    optimizer_step: Part = Part()
    retained: dict[str, int] = {}
    """Bytes that a step leaves behind, by operator and place; negative for what it frees."""
    left_out: int = 0
    """Entries that had no room, and are in those named `other`."""

    def rates(self) -> tuple[tuple[Part, float], ...]:
        """Each part, and how often it recurs per sample."""
        return (self.micro_batch, 1 / self.samples), (self.optimizer_step, 1 / self.samples_per_step)


def bounded(profile: Profile, most_bytes: int = MOST_BYTES) -> Profile:
    """The profile, its cheapest entries united under `OTHER` until it takes at most *most_bytes* as JSON."""
    entries = sorted(_entries(profile))
    kept, left_out = profile, 0
    while len(msgspec.json.encode(kept)) > most_bytes and left_out < len(entries):
        left_out = min(left_out + max(1, len(entries) // 32), len(entries))
        kept = _united(profile, {(entry.part, entry.listing, entry.names) for entry in entries[:left_out]}, left_out)
    return kept


class _Entry(NamedTuple):
    share: float
    """Of all that its listing costs, both parts together."""
    part: int
    listing: str
    names: tuple[str, ...]
    """Place and operator, or a place."""


def _entries(profile: Profile) -> Iterator[_Entry]:
    """Entries that may be united: those without a host read, which costs nothing here and much on a GPU."""
    parts = tuple(part for part, _ in profile.rates())
    total = sum(done.moved_bytes + done.flops for part in parts for *_, done in part.operations()) or 1
    for number, part in enumerate(parts):
        for place, operator, done in part.operations():
            if not done.reads:
                yield _Entry((done.moved_bytes + done.flops) / total, number, "operators", (place, operator))
    for listing in LISTINGS:
        total = sum(call.instructions for part in parts for _, call in part.calls(listing)) or 1
        for number, part in enumerate(parts):
            for place, call in part.calls(listing):
                yield _Entry(call.instructions / total, number, listing, (place,))


_Names = Set[tuple[int, str, tuple[str, ...]]]


def _united(profile: Profile, united: _Names, left_out: int) -> Profile:
    parts = []
    for number, (part, _) in enumerate(profile.rates()):
        operators: dict[str, dict[str, list[int]]] = {}
        for place, operator, done in part.operations():
            away = (number, "operators", (place, operator)) in united
            add_to(operators, (OTHER, OTHER) if away else (place, operator), done)
        python, inner = (_functions(part, listing, number, united) for listing in LISTINGS)
        parts.append(Part(operators=as_numbers(operators), python=python, inner=inner))
    micro, step = parts
    return msgspec.structs.replace(profile, micro_batch=micro, optimizer_step=step, left_out=left_out)


def _functions(part: Part, listing: Listing, number: int, united: _Names) -> dict[str, dict[str, Numbers]]:
    kept: dict[str, dict[str, list[int]]] = {}
    for place, call in part.calls(listing):
        add_to(kept, (OTHER, "") if (number, listing, (place,)) in united else file_and_function(place), call)
    return as_numbers(kept)


def file_and_function(place: str) -> tuple[str, str]:
    """Both parts of a place; an empty function where it names none."""
    file, _, function = place.partition(":")
    return file, function


def add_to(listing: dict[str, dict[str, list[int]]], names: tuple[str, str], counts: Sequence[int]) -> None:
    """Add counts to what a listing has under two names."""
    outer, inner = names
    before = listing.setdefault(outer, {}).setdefault(inner, [0] * len(counts))
    for index, count in enumerate(counts):
        before[index] += count


def as_numbers(listing: Mapping[str, Mapping[str, Iterable[int]]]) -> dict[str, dict[str, Numbers]]:
    """A listing as a file has it."""
    return {
        outer: {name: " ".join(map(str, counts)) for name, counts in inner.items()} for outer, inner in listing.items()
    }
