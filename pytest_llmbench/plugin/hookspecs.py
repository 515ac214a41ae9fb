"""
Hooks that other plugins and `conftest.py` files may implement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_llmbench.executors import Executor
    from pytest_llmbench.store.results import Result


@pytest.hookspec(firstresult=True)
def pytest_llmbench_executor(config: pytest.Config) -> Executor | None:
    """
    Supply what runs the cases, instead of processes of this machine.

    Called once at the start of a run with `--llmbench`; with pytest-xdist in every process, so an
    executor starts nothing before its first `run`. It is given each case as it is: this machine
    then needs no GPU and no training libraries, and lends none of its GPUs. It is closed at the end
    of the run.

    Stops at first non-None result.

    :param config: the pytest config object.
    :return: see `pytest_llmbench.executors.Executor`; None to leave it to others.

    Use in conftest plugins
    =======================

    Any initial conftest file can implement this hook.
    """


@pytest.hookspec
def pytest_llmbench_result(result: Result, config: pytest.Config) -> None:
    """
    A case has been measured, judged and decided upon.

    Called in the process that reports (with pytest-xdist the controller), after the result has
    been written to the result file.

    :param result: see `pytest_llmbench.store.results.Result`.
    :param config: the pytest config object.

    Use in conftest plugins
    =======================

    Any conftest file can implement this hook.
    """
