"""One symbol for each thing that can become of a row, so that no report tells it by colour alone."""

from __future__ import annotations

__all__ = ["ORDER", "SYMBOLS"]

SYMBOLS = {
    "regressed": "\N{MULTIPLICATION X}",
    "not comparable": "\N{NOT EQUAL TO}",
    "unmeasured": "!",
    "undecided": "?",
    "no baseline": "\N{WHITE CIRCLE}",
    "improved": "\N{BLACK UP-POINTING TRIANGLE}",
    "recorded": "\N{BLACK CIRCLE}",
    "unchanged": "\N{CHECK MARK}",
    "skipped": "\N{EN DASH}",
    "not run": "\N{MIDDLE DOT}",
}
"""By `Result.told`, and for rows of a published table that have no result."""

ORDER = tuple(SYMBOLS)
"""From what a reader has to act upon to what there is nothing to do about."""
