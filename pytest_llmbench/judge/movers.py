"""
What made a metric move: operators, functions and allocations, by name and place, from the profiles of both sides.

Movers of different metrics have one cost, in seconds a sample: of an operator what its flops or its bytes take at best, and at
least what the host takes to send it off, of Python what its instructions take, of memory what it takes to write it once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from pytest_llmbench.host.cards import Card, card_named
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import Metric, Quantity
from pytest_llmbench.schema.profile import OTHER, Profile
from pytest_llmbench.schema.units import counted, size

__all__ = ["MOST", "Mover", "movers"]

MOST = 3
"""So many are told of a metric."""

_WORTH_TELLING = 0.05
"""What moved by less than this fraction of what moved most is left out."""

_CPU = Card("CPU", 10**11, 2 * 10**10)
"""A core or two of a server, about; for a GPU that is not listed, too, since only the order matters."""
_SECONDS_PER_INSTRUCTION = 2e-8
"""Of Python's bytecode, about: a loop of additions runs 50 million a second."""
_SECONDS_PER_RUN = 5e-6
"""What the host takes to send off an operator, about."""
_SECONDS_PER_READ = 2e-5
"""What the host and a GPU lose where one waits for the other, about."""
_STEPS_OF_A_LEAK = 1000
"""What a step leaves behind costs as much as so many steps leave."""

_Entry = tuple[str, str]
"""A name, empty for Python code, and a place, empty where none is known."""


class Mover(NamedTuple):
    """One operator at one place, one function, or one who asked for memory."""

    name: str
    place: str
    moved: float
    """Of one micro-batch and one optimizer step, in the unit of the quantity."""
    text: str
    """In words, without the place: `clone +192 a step`."""
    cost: float
    """Seconds a sample, about, in the direction in which the metric moved."""

    def __str__(self) -> str:
        return f"{self.text} in {self.place}" if self.place else self.text


def movers(metric: Metric, then: Measurement, now: Measurement, *, more: bool) -> tuple[Mover, ...]:
    """
    What moved as the metric did, the most first; empty where a side has no profile.

    Args:
        more: whether the metric rose.
    """
    if metric.explained_by is None or then.profile is None or now.profile is None:
        return ()
    quantity = metric.explained_by
    sign = 1 if more else -1
    moved = _moved(*(_amounts(quantity, side) for side in (then, now)))
    most = max((amount * sign for amount in moved.values()), default=0)
    as_it_did = [
        entry
        for entry, amount in moved.items()
        if amount * sign > 0 and amount * sign >= _WORTH_TELLING * most and OTHER not in entry
    ]
    as_it_did.sort(key=lambda entry: (-abs(moved[entry]), entry))
    card = card_named(now.environment.device if now.environment else "") or _CPU
    costs = _moved(*(_costs(quantity, side, card) for side in (then, now)))
    runs = [_amounts("operators", side) for side in (then, now)]
    return tuple(
        Mover(*entry, moved[entry], _text(quantity, entry, moved[entry], runs), costs.get(entry, 0.0) * sign)
        for entry in as_it_did[:MOST]
    )


def _moved(before: Mapping[_Entry, float], after: Mapping[_Entry, float]) -> dict[_Entry, float]:
    return {entry: after.get(entry, _least(after)) - before.get(entry, _least(before)) for entry in {**before, **after}}


def _costs(quantity: Quantity, side: Measurement, card: Card) -> dict[_Entry, float]:
    """Seconds a sample of every entry of a quantity."""
    profile = side.profile
    assert profile is not None
    if quantity in ("live", "retained"):
        times = _STEPS_OF_A_LEAK if quantity == "retained" else 1
        written = card.bytes_per_second * profile.samples / times
        return {entry: amount / written for entry, amount in _amounts(quantity, side).items()}
    found: dict[_Entry, float] = {}
    for part, rate in profile.rates():
        if quantity in ("calls", "instructions"):
            for place, call in part.calls("python"):
                seconds = call.instructions * _SECONDS_PER_INSTRUCTION
                found["", place] = found.get(("", place), 0) + seconds * rate
            continue
        for place, operator, done in part.operations():
            at_best = max(done.flops / card.flops_per_second, done.moved_bytes / card.bytes_per_second)
            waits = 0.0 if card is _CPU else done.reads * _SECONDS_PER_READ
            seconds = max(at_best, done.runs * _SECONDS_PER_RUN) + waits
            found[operator, place] = found.get((operator, place), 0) + seconds * rate
    return found


def _amounts(quantity: Quantity, side: Measurement) -> dict[_Entry, float]:
    profile = side.profile
    assert profile is not None
    if quantity == "live":
        return {_asked(share.name): share.bytes for share in side.peak_allocations}
    if quantity == "retained":
        return {_asked(name): count for name, count in profile.retained.items()}
    if quantity in ("calls", "instructions"):
        return _of_python(profile, quantity)
    field = {"operators": "runs"}.get(quantity, quantity)
    found: dict[_Entry, float] = {}
    for part, _ in profile.rates():
        for place, operator, done in part.operations():
            if amount := getattr(done, field):
                found[operator, place] = found.get((operator, place), 0) + amount
    return found


def _of_python(profile: Profile, quantity: Quantity) -> dict[_Entry, float]:
    found: dict[_Entry, float] = {}
    for part, _ in profile.rates():
        for place, call in part.calls("python"):
            found["", place] = found.get(("", place), 0) + getattr(call, quantity)
    return found


def _asked(name: str) -> _Entry:
    operator, _, place = name.partition(" in ")
    return operator.removeprefix("aten::"), place


def _least(amounts: Mapping[_Entry, float]) -> float:
    """Most that an entry that is not listed may have: nothing, or as much as the smallest that is."""
    if not any(OTHER in entry for entry in amounts):
        return 0
    return min((amount for entry, amount in amounts.items() if OTHER not in entry), default=0)


def _text(quantity: Quantity, entry: _Entry, moved: float, runs: list[dict[_Entry, float]]) -> str:
    name = entry[0]
    if quantity in ("live", "retained"):
        return f"{name} {_signed(moved, size(abs(moved)))}".strip()
    if quantity in ("calls", "instructions"):
        return f"{_signed(moved, f'{abs(moved):,.0f}')} {quantity} a step"
    if quantity == "reads":
        return f"{counted(round(abs(moved)), 'host read')} {'more' if moved > 0 else 'fewer'} a step"
    times = runs[1].get(entry, 0) - runs[0].get(entry, 0)
    if times and math.copysign(1, times) == math.copysign(1, moved):
        return f"{name} {_signed(times, f'{abs(times):,.0f}')} a step"
    amount = size(abs(moved)) if quantity == "moved_bytes" else f"{abs(moved):,.3g} flops"
    return f"{name} {_signed(moved, amount)} a step"


def _signed(moved: float, amount: str) -> str:
    return f"{'+' if moved > 0 else '-'}{amount}"
