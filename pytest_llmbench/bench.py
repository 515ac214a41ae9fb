"""
The value of the `llmbench` fixture: measures and checks the cases of one test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from pytest_llmbench.baselines.store import why_no_name
from pytest_llmbench.cases import Case
from pytest_llmbench.executors import NotMeasurable, SetupError, Timed
from pytest_llmbench.gate import Gate, RowName, stored_row
from pytest_llmbench.measurement import Measurement
from pytest_llmbench.reports.progress import Progress
from pytest_llmbench.results import Result

__all__ = ["Llmbench", "row_name"]


def row_name(item: pytest.Item) -> RowName:
    """
    Table and row of a test: `test_batch_size[qwen-7b-chat-batch-4]` is row `qwen-7b-chat-batch-4`
    of table `batch_size`; a test without parameters is the one row of its table.
    """
    function = getattr(item, "originalname", None) or item.name
    table = function.removeprefix("test_") or function
    callspec = getattr(item, "callspec", None)
    if callspec is None or item.name == function:  # `pytest.HIDDEN_PARAM` leaves the name as it is
        return RowName(item.nodeid, table, table)
    return RowName(item.nodeid, table, callspec.id)


class _Mine(NamedTuple):
    """A measurement of this test's."""

    taken: Timed
    written: Case


class Llmbench:
    """
    Measures a case in a fresh process and asserts it against the stored baseline.

    Calling it does both halves; `measure` and `check` are the halves.

    Args:
        on_measured: called for each measurement, whatever its outcome.
        on_result: called with each result, before the test ends for it.
        stop: called with a reason why no other test needs to be tried.
    """

    def __init__(
        self,
        gate: Gate,
        name: RowName,
        progress: Progress,
        *,
        on_measured: Callable[[], None],
        on_result: Callable[[Result], None],
        stop: Callable[[str], None],
    ) -> None:
        self._gate = gate
        self._name = name
        self._progress = progress
        self._on_measured = on_measured
        self._on_result = on_result
        self._stop = stop
        self._measured: list[_Mine] = []

    def __call__(self, case: Case) -> Measurement:
        """
        Measure *case* and check the measurement; a test that returns from this call has passed.
        """
        measurement = self.measure(case)
        self.check(measurement)
        return measurement

    def measure(self, case: Case) -> Measurement:
        """
        Run *case* once; what becomes of its process is the measurement's outcome.

        Skips the test where this machine lacks the devices. Fails it where its row could not be stored.
        """
        if why := why_no_name(self._name.table, self._name.row):
            pytest.fail(why, pytrace=False)
        self._progress.start(self._name.told)
        try:
            taken = self._gate.measure(self._name.nodeid, case, self._progress.phase)
        except NotMeasurable as reason:
            pytest.skip(str(reason))
        except SetupError as error:
            self._stop(f"llmbench: {error}")
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        finally:
            self._progress.end()
        self._measured.append(_Mine(taken, case))
        self._on_measured()
        return taken.measurement

    def check(self, measurement: Measurement, *, row: str | None = None) -> None:
        """
        Hold *measurement* against the baseline of this test's row, or of another *row* of its table.

        Fails the test on a regression, skips it where the case is unavailable.
        """
        mine = (one for one in self._measured if one.taken.measurement is measurement)
        taken, written = next(mine, _Mine(Timed(measurement, 0.0), measurement.case))
        name = stored_row(self._name._replace(row=row or self._name.row), written, measurement.case)
        more = (lambda count: self._more(measurement.case, count)) if taken.seconds else None
        result = self._gate.check(name, taken, more)
        self._on_result(result)
        if result.decision == "fail":
            pytest.fail(result.message, pytrace=False)
        if result.decision == "skip":
            pytest.skip(result.message)

    def _more(self, case: Case, count: int) -> Timed:
        self._progress.start(f"{self._name.told}, {count} more")
        try:
            return self._gate.fresh(case, count, self._progress.phase)
        finally:
            self._progress.end()
