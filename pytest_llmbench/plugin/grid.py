"""The test that `--llmbench-model` runs: a standard grid over that model, without a test file of the user's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_llmbench.plugin.options import chosen_model
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.tables import Row
from pytest_llmbench.tables.grid import standard_grid

__all__ = ["test_standard_grid"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    try:
        rows = standard_grid(chosen_model(metafunc.config))
    except CaseError as error:
        raise pytest.UsageError(f"--llmbench-model: {error}") from None
    metafunc.parametrize("row", rows, ids=[row.id for row in rows])


@pytest.mark.gpu
def test_standard_grid(llmbench: Callable[[Case], object], row: Row) -> None:
    """One row of the grid."""
    llmbench(row.case)
