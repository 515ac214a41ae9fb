"""The rows that a pull request is judged by."""

from __future__ import annotations

from pytest_llmbench.tables import PULL_REQUEST, TABLES


def test_each_is_a_row_of_a_table() -> None:
    assert {(name, row.id) for name, table in TABLES.items() for row in table.rows} >= PULL_REQUEST


def test_they_are_twelve() -> None:
    assert len(PULL_REQUEST) == 12
