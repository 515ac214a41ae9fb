"""
A plugin with the executor of `canned`, which is told of rows ahead and measures the last of them first.
"""

from __future__ import annotations

import itertools

import pytest
from canned import CannedExecutor  # type: ignore[import-not-found]

from pytest_llmbench.executors.pool import Announcements, Pool


def pytest_llmbench_executor(config: pytest.Config) -> Pool:
    told = itertools.count()
    return Pool(
        CannedExecutor(config.invocation_params.dir),
        slots=1,
        width=lambda case: 1,
        seconds=lambda request: next(told),
        announcements=Announcements(print),
    )
