"""
Hooks that other plugins and `conftest.py` files may implement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_llmbench.results import Result


@pytest.hookspec
def pytest_llmbench_result(result: Result, config: pytest.Config) -> None:
    """
    A case has been measured, judged and decided upon.

    Called in the process that reports (with pytest-xdist the controller), after the result has
    been written to the result file.

    :param result: see `pytest_llmbench.results.Result`.
    :param config: the pytest config object.

    Use in conftest plugins
    =======================

    Any conftest file can implement this hook.
    """
