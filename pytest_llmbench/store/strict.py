"""
JSON as a stored baseline may be written: what the standard parser lets pass is found, with its place.

That is: keys that come twice, numbers that are not finite or need more than 64 bits, text that is
not Unicode, nesting without end.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

__all__ = ["Flaw", "Place", "first_flaw", "parse"]

Place = tuple[str | int, ...]
"""Keys and indices from the root."""

_DEEPEST = 16
"""More levels than the format has."""
_LARGEST = 2**63


class Flaw(NamedTuple):
    """One value that a baseline cannot hold."""

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
    """The first value within *value* that a baseline cannot hold, or None."""
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


def _flaw_of_text(value: Any, place: Place) -> Flaw | None:
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        return Flaw(place, "has text that is not Unicode")
    return None
