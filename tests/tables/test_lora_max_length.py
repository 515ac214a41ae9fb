from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import pytest

from pytest_llmbench.schema.case import Case
from pytest_llmbench.tables import TABLES, Row


@pytest.mark.gpu
@pytest.mark.parametrize("row", TABLES["lora_max_length"].rows, ids=attrgetter("id"))
def test_lora_max_length(llmbench: Callable[[Case], object], row: Row) -> None:
    llmbench(row.case)
