"""The cases that a command is to measure: rows of the built-in tables, and the user's own steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pytest_llmbench.schema.case import Case, Loop
from pytest_llmbench.schema.text import hint_at
from pytest_llmbench.tables import ALL_TABLES, TABLES
from pytest_llmbench.tables.expression import matcher
from pytest_llmbench.tables.renamed import former_row

__all__ = ["STEPS", "Selected", "SelectionError", "find_case", "select"]

STEPS = "steps"
"""The table in which reports show the user's own steps."""


class SelectionError(ValueError):
    """A selection that names nothing; the message says what there is."""


class Selected(msgspec.Struct, frozen=True):
    """One case and its place in the tables."""

    table: str
    row: str
    case: Case

    @property
    def name(self) -> str:
        return f"{self.table}[{self.row}]"

    @property
    def names(self) -> tuple[str, ...]:
        """Table and row, that of earlier releases too, and each row without its table."""
        former = former_row(self.table, self.row)
        return (self.name, self.row, *((f"{self.table}[{former}]", former) if former else ()))


def select(
    expression: str = "",
    tables: Sequence[str] = (),
    steps: Sequence[str] = (),
    loop: Loop | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[Selected, ...]:
    """
    Rows of *tables* whose `table[row]` matches *expression*, then *steps*; all rows if neither is given.

    Args:
        tables: by default the published ones.
        steps: `module:function` of steps of the user's own. With steps alone, no rows are selected.
        loop: in which rows run instead of the loop that they say; their name then ends with it.
        arguments: those of the steps, as `Case.custom` takes them.

    Raises:
        SelectionError: no such table, nothing is selected, or there are arguments and no step.
        ExpressionError: *expression* cannot be read.
        CaseError: a step is not of that form, or an argument is no JSON value.
    """
    if unknown := [name for name in tables if name not in ALL_TABLES]:
        raise SelectionError(f"no table {unknown[0]!r}; there are {', '.join(ALL_TABLES)}")
    matches = matcher(expression)
    if arguments and not steps:
        raise SelectionError(
            "--step-arguments without --step: they are those of a step of your own; add --step MODULE:FUNCTION"
        )
    own = [Selected(STEPS, step, Case.custom(step, name=step, arguments=arguments)) for step in steps]
    wanted = () if own and not (expression or tables) else tables or tuple(TABLES)
    chosen = [*(row for row in _rows(wanted, loop) if matches(" ".join(row.names))), *own]
    if not chosen:
        raise SelectionError(f"-k {expression!r} selects no row of {', '.join(wanted)}")
    return tuple(chosen)


def find_case(named: str, loop: Loop | None = None, arguments: Mapping[str, Any] | None = None) -> Selected:
    """
    The one case that *named* means: `module:function`, `table[row]`, or a row that only one table has.

    Args:
        arguments: those of the step, if it is one.

    Raises:
        SelectionError: there is no such row, or more than one, or there are arguments and it is no step.
        CaseError: it has a colon and is not the name of a step, or an argument is no JSON value.
    """
    if ":" in named:
        return select(steps=[named], arguments=arguments)[0]
    if arguments:
        raise SelectionError(
            f"--step-arguments with the row {named!r}: only a step of your own, module:function, has any"
        )
    rows = list(_rows(ALL_TABLES, loop))
    found = [row for row in rows if named in row.names]
    if len(found) == 1:
        return found[0]
    if found:
        raise SelectionError(f"row {named!r} is in several tables; choose {' or '.join(row.name for row in found)}")
    hint = hint_at(named, (row.name for row in rows), "write table[row], or module:function")
    raise SelectionError(f"no row {named!r}; {hint}")


def _rows(tables: Iterable[str], loop: Loop | None) -> Iterator[Selected]:
    for name in tables:
        for row in ALL_TABLES[name].rows:
            if loop is None or loop == row.case.loop:
                yield Selected(name, row.id, row.case)
            else:
                yield Selected(name, f"{row.id}-{loop}", msgspec.structs.replace(row.case, loop=loop))
