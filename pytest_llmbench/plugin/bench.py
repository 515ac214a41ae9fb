"""
The value of the `llmbench` fixture: measures and checks the cases of one test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest

from pytest_llmbench.executors import NotMeasurable, SetupError
from pytest_llmbench.reports.progress import Progress
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.text import printable
from pytest_llmbench.store.baselines import why_no_name
from pytest_llmbench.store.results import Result
from pytest_llmbench.trials.gate import Gate, RowName, Taken

__all__ = ["Llmbench", "row_name"]


def row_name(item: pytest.Item) -> RowName:
    """
    Table and row of a test: `test_batch_size[qwen-7b-chat-batch-4]` is row `qwen-7b-chat-batch-4`
    of table `batch_size`; a test without parameters is the one row of its table.
    """
    function = getattr(item, "originalname", None) or item.name
    table = function.removeprefix("test_") or function
    callspec = getattr(item, "callspec", None)
    row = table if callspec is None or item.name == function else callspec.id  # equal with `pytest.HIDDEN_PARAM`
    return RowName(printable(item.nodeid, lines=False), printable(table, lines=False), printable(row, lines=False))


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
        self._taken: list[Taken] = []

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
        self._progress.start(self._name.text)
        try:
            taken = self._gate.measure(self._name.nodeid, case, self._progress.phase)
        except NotMeasurable as reason:
            pytest.skip(str(reason))
        except SetupError as error:
            self._give_up(error)
        finally:
            self._progress.end()
        self._taken.append(taken)
        self._on_measured()
        return taken.measurement

    def check(self, measurement: Measurement, *, row: str | None = None) -> None:
        """
        Hold *measurement* against the baseline of this test's row, or of another *row* of its table.

        Fails the test on a regression, skips it where the case is unavailable.
        """
        of_mine = (one for one in self._taken if one.measurement == measurement)
        taken = next(of_mine, Taken(measurement, measurement.case))
        asked = printable(row, lines=False) if row else self._name.row

        def confirming(count: int) -> None:
            self._progress.start(f"{self._name.text}, {count} more")

        try:
            result = self._gate.check(self._name._replace(row=asked), taken, confirming)
        except SetupError as error:
            self._give_up(error)
        finally:
            self._progress.end()
        self._on_result(result)
        if result.decision == "fail":
            pytest.fail(result.message, pytrace=False)
        if result.decision == "skip":
            pytest.skip(result.message)

    def _give_up(self, error: SetupError) -> NoReturn:
        self._stop(f"llmbench: {error}")
        raise pytest.fail.Exception(str(error), pytrace=False) from None
