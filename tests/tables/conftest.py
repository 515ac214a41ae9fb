from __future__ import annotations

import pytest

from pytest_llmbench.plugin.bench import row_name
from pytest_llmbench.tables import PULL_REQUEST
from pytest_llmbench.tables.renamed import former_row


def pytest_itemcollected(item: pytest.Item) -> None:
    """A row can be selected by the words of its former name as well, and those of a pull request by their mark."""
    name = row_name(item)
    if (name.table, name.row) in PULL_REQUEST:
        item.add_marker("pull_request")
    if former := former_row(name.table, name.row):
        item.extra_keyword_matches.add(former)
