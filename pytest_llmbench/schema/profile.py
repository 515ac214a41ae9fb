"""
What one optimizer step did, by name and by place: operators, Python functions, and the memory that it kept.

A place is a function, as `peft/tuners/lora/layer.py:Linear.forward`; in a backward pass that of the forward operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Annotated, Literal, NamedTuple

import msgspec

__all__ = ["MOST_BYTES", "OTHER", "Call", "Numbers", "Operation", "Part", "Profile", "bounded", "numbers"]

MOST_BYTES = 16 * 2**10
"""A profile takes no more, written as compact JSON."""

OTHER = "other"
"""Stands for the entries that have no room."""

Numbers = Annotated[str, msgspec.Meta(pattern=r"^\d+( \d+)*$")]
"""Several counts in one string, so that an entry is one line of a file."""


class Operation(NamedTuple):
    """What an operator did at one place."""

    runs: int = 0
    moved_bytes: int = 0
    """Read and written, by the shapes of its tensors."""
    flops: int = 0


class Call(NamedTuple):
    """What Python did at one place, torch's functions that were called from there included."""

    calls: int = 0
    instructions: int = 0
    """Bytecodes."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either the micro-batch or the optimizer step that follows: they recur at different rates."""

    operators: dict[str, dict[str, Numbers]] = {}
    """By place, by operator: `Operation`."""
    python: dict[str, Numbers] = {}
    """By place: `Call`."""
    inner: dict[str, Numbers] = {}
    """By function of torch and of the standard library: `Call`; the places in `python` include them."""

    def operations(self) -> Iterator[tuple[str, str, Operation]]:
        """Place, operator, and what it did there."""
        for place, operators in self.operators.items():
            for operator, text in operators.items():
                yield place, operator, Operation(*map(int, text.split()))


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


def numbers(counts: Iterable[int]) -> Numbers:
    """The counts as a file has them."""
    return " ".join(map(str, counts))


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
    listing: Literal["operators", "python", "inner"]
    names: tuple[str, ...]
    """Place and operator, or a function."""


def _entries(profile: Profile) -> Iterator[_Entry]:
    parts = tuple(part for part, _ in profile.rates())
    total = sum(done.moved_bytes + done.flops for part in parts for *_, done in part.operations()) or 1
    for number, part in enumerate(parts):
        for place, operator, done in part.operations():
            yield _Entry((done.moved_bytes + done.flops) / total, number, "operators", (place, operator))
    listings: tuple[Literal["python", "inner"], ...] = ("python", "inner")
    for listing in listings:
        counts = [_calls(getattr(part, listing)) for part in parts]
        total = sum(call.instructions for listed in counts for call in listed.values()) or 1
        for number, listed in enumerate(counts):
            for name, call in listed.items():
                yield _Entry(call.instructions / total, number, listing, (name,))


def _calls(listed: Mapping[str, Numbers]) -> dict[str, Call]:
    return {name: Call(*map(int, text.split())) for name, text in listed.items()}


def _united(profile: Profile, united: Set[tuple[int, str, tuple[str, ...]]], left_out: int) -> Profile:
    parts = []
    for number, (part, _) in enumerate(profile.rates()):
        operators: dict[str, dict[str, list[int]]] = {}
        for place, operator, done in part.operations():
            away = (number, "operators", (place, operator)) in united
            into = operators.setdefault(OTHER if away else place, {})
            _add(into.setdefault(OTHER if away else operator, [0, 0, 0]), done)
        python, inner = (_functions(part, listing, number, united) for listing in ("python", "inner"))
        by_place = {
            place: {operator: numbers(counts) for operator, counts in listed.items()}
            for place, listed in operators.items()
        }
        parts.append(Part(operators=by_place, python=python, inner=inner))
    micro, step = parts
    return msgspec.structs.replace(profile, micro_batch=micro, optimizer_step=step, left_out=left_out)


def _functions(
    part: Part, listing: str, number: int, united: Set[tuple[int, str, tuple[str, ...]]]
) -> dict[str, Numbers]:
    kept: dict[str, list[int]] = {}
    for name, call in _calls(getattr(part, listing)).items():
        _add(kept.setdefault(OTHER if (number, listing, (name,)) in united else name, [0, 0]), call)
    return {name: numbers(counts) for name, counts in kept.items()}


def _add(counts: list[int], more: Iterable[int]) -> None:
    for index, count in enumerate(more):
        counts[index] += count
