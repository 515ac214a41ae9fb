from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import pytest

from pytest_llmbench.schema.case import Case
from pytest_llmbench.tables import ALL_TABLES, Row


@pytest.mark.gpu
@pytest.mark.parametrize("row", ALL_TABLES["as_users_train"].rows, ids=attrgetter("id"))
def test_as_users_train(llmbench: Callable[[Case], object], row: Row) -> None:
    llmbench(row.case)
