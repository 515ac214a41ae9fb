"""The shape of a published table: its rows, and the case fields that tell them apart."""

from __future__ import annotations

import msgspec

from pytest_llmbench.schema.case import Case

__all__ = ["Row", "Table"]


class Row(msgspec.Struct, frozen=True):
    """One line of a table."""

    id: str
    """Unique within the table; in the test's name and in baselines, so it never changes."""
    case: Case


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the published page."""

    name: str
    """Names the test (`test_<name>`) and the baseline file (`<name>.json`)."""
    title: str
    """The heading of the page."""
    columns: tuple[tuple[str, str], ...]
    """Header and field of `Case`: the model, then every field that is not the same in all rows."""
    rows: tuple[Row, ...]
    """In the order of the page."""
