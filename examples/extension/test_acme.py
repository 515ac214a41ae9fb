"""Rows of the parts that the package adds."""

from __future__ import annotations

import pytest

from pytest_llmbench import Case

ROWS = {
    "plain": Case(model="acme:twin", attention="acme:plain"),
    "sparse": Case(model="acme:twin", attention="sdpa", quantization="acme:sparse"),
}


@pytest.mark.parametrize("case", list(ROWS.values()), ids=list(ROWS))
def test_acme(llmbench, case):
    llmbench(case)
