"""
One run's measuring and judging: a case in, a decided result out.

Free of pytest: what a decision does to a test is the plugin's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from pytest_llmbench.baselines.file import BaselineError
from pytest_llmbench.baselines.store import BaselineStore
from pytest_llmbench.baselines.update import RefusedUpdate, UpdateMode, should_record
from pytest_llmbench.cases import Case
from pytest_llmbench.executors import Executor
from pytest_llmbench.judge.compare import judge
from pytest_llmbench.judge.sentence import failure_sentence
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.measurement import Measurement
from pytest_llmbench.metrics import Tolerance
from pytest_llmbench.options import Settings
from pytest_llmbench.protocol import Phase, Request
from pytest_llmbench.results import Decision, Result
from pytest_llmbench.workload import Workload

__all__ = ["Gate"]


class _Decided(NamedTuple):
    """What becomes of a test, and what is said of it."""

    decision: Decision
    message: str = ""
    recorded: bool = False


class Gate:
    """
    Measures cases and judges them against the baselines.

    Args:
        settings: the run's options.
        workload: how every case is measured.
        executor: what runs the cases; closed with the gate.
        tolerances: those of the command line and the ini file, by metric.
        resumed: results of an earlier run that need no measuring; of two for one case the later counts.
    """

    def __init__(
        self,
        settings: Settings,
        workload: Workload,
        executor: Executor,
        *,
        tolerances: Mapping[str, Tolerance],
        resumed: Iterable[Result] = (),
    ) -> None:
        self.workload = workload
        self.store = BaselineStore(settings.baselines)
        self.executor = executor
        self._settings = settings
        self._tolerances = tolerances
        self._resumed = {(result.nodeid, result.measurement.case): result.measurement for result in resumed}

    def measure(self, nodeid: str, case: Case, on_phase: Callable[[Phase], None]) -> tuple[Measurement, float]:
        """
        The case's measurement, and the seconds it took; that of the resumed run, and 0, if it has one.

        It is measured in the loop that the run's options name, if they do.

        Raises:
            NotMeasurable: there is no device here for the case.
            SetupError: no case can be run as the run was set up.
        """
        if self._settings.loop is not None and case.step is None:
            case = msgspec.structs.replace(case, loop=self._settings.loop)
        resumed = self._resumed.get((nodeid, case))
        if resumed is not None and _is_reusable(resumed, self.workload):
            return resumed, 0.0
        started = time.monotonic()
        measurement = self.executor.run(Request(case=case, workload=self.workload), on_phase)
        return measurement, time.monotonic() - started

    def check(self, nodeid: str, table: str, row: str, measurement: Measurement, seconds: float) -> Result:
        """
        Judge a measurement and, if the run is to do so, make it the baseline.

        A baseline that cannot be read or written fails the row, and its measurement is not lost.
        """
        try:
            against = self.store.find(measurement, table, row)
        except BaselineError as error:
            verdict = RowVerdict(status="inconclusive", reason=f"its baseline cannot be read: {error}")
            decided = _Decided("fail", str(error))
        else:
            verdict = judge(measurement, against, self._tolerances)
            decided = self._decide(row, verdict, measurement, has_baseline=against is not None)
            if why := self._why_record(verdict):
                decided = self._record((table, row), measurement, why, decided)
        return Result(
            nodeid=nodeid,
            table=table,
            row=row,
            measurement=measurement,
            verdict=verdict,
            decision=decided.decision,
            message=decided.message,
            recorded=decided.recorded,
            seconds=seconds,
        )

    def close(self) -> None:
        """End every measuring process."""
        self.executor.close()

    def _decide(self, row: str, verdict: RowVerdict, measurement: Measurement, *, has_baseline: bool) -> _Decided:
        if measurement.outcome == "unavailable" and not has_baseline:
            return _Decided("skip", f"unavailable: {measurement.reason}")
        if verdict.failed:
            return _Decided("fail", failure_sentence(row, verdict))
        if verdict.status != "no baseline":
            return _Decided("pass")
        hint = f"{row}: {verdict.reason}; record one with --llmbench-update=missing"
        return _Decided("skip" if self._settings.missing == "skip" else "fail", hint)

    def _why_record(self, verdict: RowVerdict) -> str | None:
        """The option by which a result with this verdict becomes the baseline, or None."""
        mode: UpdateMode | None = self._settings.update
        if mode is not None and should_record(mode, verdict):
            return f"--llmbench-update={mode}"
        if self._settings.missing == "record" and verdict.status == "no baseline":
            return "--llmbench-missing=record"
        return None

    def _record(self, name: tuple[str, str], measurement: Measurement, why: str, decided: _Decided) -> _Decided:
        """Turns *decided* into a pass, unless the measurement cannot be recorded."""
        try:
            path = self.store.record(*name, measurement, self._settings.reason or f"recorded by {why}")
        except (RefusedUpdate, BaselineError) as error:
            return _Decided("fail", f"{decided.message}\n{error}".strip())
        return _Decided("pass", f"recorded in {_short(path)}", recorded=True)


def _is_reusable(measurement: Measurement, workload: Workload) -> bool:
    """A measurement of the very same work that came to an end; what crashed or hung is taken again."""
    return measurement.workload == workload and measurement.outcome in ("ok", "oom", "unavailable")


def _short(path: Path) -> str:
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
