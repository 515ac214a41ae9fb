from __future__ import annotations

from pytest_llmbench import Case, Llmbench


def test_regression_head(llmbench: Llmbench) -> None:
    llmbench(Case.custom("bench_step:build", name="regression-head"))
