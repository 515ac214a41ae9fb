"""
JSON as a baseline or a result may be written: what a lenient parser lets pass is found, with its place.

That is: keys that come twice, numbers that are not finite or need more than 64 bits, text that is
not Unicode, nesting without end.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

import msgspec

__all__ = ["Flaw", "Place", "dotted", "first_flaw", "flaw_of_decoded", "parse"]

Place = tuple[str | int, ...]
"""Keys and indices from the root."""

_DEEPEST = 16
"""More levels than the format has."""
_LARGEST = 2**63
_LONG = re.compile(rb"(?<![.0-9])[0-9]{19}")
"""In every number of more than 64 bits that is written out; fractions may have as many digits."""


class Flaw(NamedTuple):
    """One value that a file cannot hold."""

    place: Place
    sentence: str


class _Repeated(NamedTuple):
    """Stands where a key came a second time."""


def parse(data: bytes) -> Any:
    """
    The plain value of a JSON document; what `first_flaw` finds is still in it.

    Raises:
        ValueError: not UTF-8, or not JSON.
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested without end") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found[key] = _Repeated() if key in found else value
    return found


def first_flaw(value: Any, place: Place = ()) -> Flaw | None:
    """The first value within *value* that a file cannot hold, or None."""
    if isinstance(value, dict | list | tuple) and not isinstance(value, _Repeated):
        if len(place) >= _DEEPEST:
            return Flaw(place, "is nested too deeply")
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inner = (_flaw_of_text(key, place) or first_flaw(item, (*place, key)) for key, item in items)
        return next(filter(None, inner), None)
    if isinstance(value, _Repeated):
        return Flaw(place, "comes twice")
    if isinstance(value, float) and not math.isfinite(value):
        return Flaw(place, f"is {value}, which is not a number to compare with")
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        return Flaw(place, "is a number of more than 64 bits")
    return _flaw_of_text(value, place)


def flaw_of_decoded(line: bytes, value: object) -> Flaw | None:
    """The first flaw of what msgspec has decoded from *line*: it lets numbers of more than 64 bits pass, and no more."""
    return first_flaw(msgspec.to_builtins(value)) if _LONG.search(line) else None


def dotted(place: Place) -> str:
    """A place as msgspec writes it: `processes[0].metrics.loss_first`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _flaw_of_text(value: Any, place: Place) -> Flaw | None:
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        return Flaw(place, "has text that is not Unicode")
    return None
