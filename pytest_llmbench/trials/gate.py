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

from pytest_llmbench.executors import Executor, Scheduling, Timed
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.looks import Plan, next_step
from pytest_llmbench.judge.sentence import failure_sentence
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.plugin.options import Settings
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, joined
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.results import Decision, Result
from pytest_llmbench.store.update import RECORDABLE, RefusedUpdate, UpdateMode, should_record
from pytest_llmbench.tables.renamed import row_of_today
from pytest_llmbench.trials.tries import disturbance, until_valid

__all__ = ["Gate", "More", "RowName", "stored_row"]

AUTO_PROCESSES, AUTO_LOOKS = 9, 2
"""Of a row under `--llmbench-processes=auto`: one that screens, and two shares of four if it is suspect."""


class _Decided(NamedTuple):
    """What becomes of a test, and what is said of it."""

    decision: Decision
    message: str = ""
    recorded: bool = False


More = Callable[[int], Timed]
"""Measures so many fresh processes of a case."""


class RowName(NamedTuple):
    """Under which name a test's result is stored."""

    nodeid: str
    table: str
    row: str

    @property
    def told(self) -> str:
        """Table and row, as `Result.name`."""
        return f"{self.table}[{self.row}]"


def stored_row(name: RowName, written: Case, ran: Case) -> RowName:
    """The row's name in baselines: one whose loop the run's options changed stands beside the row as it is written."""
    row = name.row if ran.loop == written.loop else f"{name.row}-{ran.loop}"
    return name._replace(row=row_of_today(name.table, row))


class Gate:
    """
    Measures cases and judges them against the baselines.

    Args:
        settings: the run's options.
        workload: how every case is measured.
        executor: what runs the cases; closed with the gate.
        tolerances: those of the command line and the ini file, by metric.
        announce: called with a sentence when a process has to be measured again.
        resumed: results of an earlier run that need no measuring; of two for one case the later counts.
    """

    num_rows: int = 1
    """Rows of this run that may raise a false alarm; set once they are known."""

    def __init__(
        self,
        settings: Settings,
        workload: Workload,
        executor: Executor,
        *,
        tolerances: Mapping[str, Tolerance],
        announce: Callable[[str], None] = lambda _: None,
        resumed: Iterable[Result] = (),
    ) -> None:
        self.workload = workload
        self.store = BaselineStore(settings.baselines)
        self.executor = executor
        self._settings = settings
        self._tolerances = tolerances
        self._announce = announce
        self._budget = settings.budget_seconds
        self._resumed = {(result.nodeid, result.measurement.case): result.measurement for result in resumed}

    @property
    def plan(self) -> Plan:
        """How many processes a row gets."""
        if self._settings.processes == "auto":
            return Plan(max_processes=AUTO_PROCESSES, looks=AUTO_LOOKS, cases=self.num_rows)
        return Plan(max_processes=self._settings.processes, screen=self._settings.processes, cases=self.num_rows)

    def measure(self, nodeid: str, case: Case, on_phase: Callable[[Phase], None]) -> Timed:
        """
        The case's measurement, and the seconds it took; that of the resumed run, and 0, if it has one.

        It is measured in the loop that the run's options name, if they do.

        Raises:
            NotMeasurable: there is no device here for the case.
            SetupError: no case can be run as the run was set up.
        """
        case = self._as_run(case)
        if (resumed := self._resumed_one(nodeid, case)) is not None:
            return Timed(resumed, 0.0)
        return self.fresh(case, self.plan.screen, on_phase)

    def requests(self, nodeid: str, case: Case) -> tuple[Request, ...]:
        """What `measure` will ask the executor for, unless a process has to be measured again."""
        case = self._as_run(case)
        if self._resumed_one(nodeid, case) is not None:
            return ()
        return self._requests(case, self.plan.screen)

    def fresh(self, case: Case, count: int, on_phase: Callable[[Phase], None]) -> Timed:
        """
        *count* fresh processes of the case, or up to the first that does not end well.

        Raises:
            NotMeasurable, SetupError: as `measure`.
        """
        return _up_to_a_failure(self._valid(request, on_phase) for request in self._requests(case, count))

    def ahead(self, name: RowName, case: Case) -> Result | None:
        """
        What was measured ahead for a test that has not asked for it yet, not judged; None if that is not all
        of what `measure` would take, or would not be resumed.
        """
        requests = self.requests(name.nodeid, case)
        if not requests or not isinstance(self.executor, Scheduling):
            return None
        found = self.executor.ahead(requests)
        if not found or any(disturbance(one.measurement, shared_gpu=self._settings.shared_gpu) for one in found):
            return None
        taken = _up_to_a_failure(found)
        if not _is_reusable(taken.measurement, self.workload):
            return None
        why = "measured, and not judged: the run ended before its test"
        return Result(
            nodeid=name.nodeid,
            table=name.table,
            row=stored_row(name, case, requests[0].case).row,
            measurement=taken.measurement,
            verdict=RowVerdict(status="inconclusive", reason=why),
            decision="skip",
            message=why,
            seconds=taken.seconds,
        )

    def check(self, name: RowName, taken: Timed, more: More | None = None) -> Result:
        """
        Judge a measurement and, if the run is to do so, make it the baseline.

        A baseline that cannot be read or written fails the row, and its measurement is not lost.

        Args:
            more: measures fresh processes where the plan asks for them; without it the measurement is all there is.
        """
        measurement = taken.measurement
        try:
            against = self.store.find(measurement, name.table, name.row)
        except BaselineError as error:
            verdict = RowVerdict(status="inconclusive", reason=f"its baseline cannot be read: {error}")
            decided = _Decided("fail", str(error))
        else:
            taken, verdict = self._settled(taken, against, more)
            measurement = taken.measurement
            decided = self._decide(name.told, verdict, measurement, has_baseline=against is not None)
            if why := self._why_record(verdict, measurement):
                decided = self._record((name.table, name.row), measurement, why, decided)
        return Result(
            nodeid=name.nodeid,
            table=name.table,
            row=name.row,
            measurement=measurement,
            verdict=verdict,
            decision=decided.decision,
            message=decided.message,
            recorded=decided.recorded,
            seconds=taken.seconds,
        )

    def close(self) -> None:
        """End every measuring process."""
        self.executor.close()

    def _as_run(self, case: Case) -> Case:
        if self._settings.loop is None or case.step is not None:
            return case
        return msgspec.structs.replace(case, loop=self._settings.loop)

    def _resumed_one(self, nodeid: str, case: Case) -> Measurement | None:
        resumed = self._resumed.get((nodeid, case))
        return resumed if resumed is not None and _is_reusable(resumed, self.workload) else None

    def _requests(self, case: Case, count: int) -> tuple[Request, ...]:
        return tuple(Request(case=case, workload=self.workload, explain_peak=number == 0) for number in range(count))

    def _valid(self, request: Request, on_phase: Callable[[Phase], None]) -> Timed:
        """One process, and the seconds of all its tries."""
        seconds = 0.0

        def run() -> Measurement:
            nonlocal seconds
            started = time.monotonic()
            measurement = self.executor.run(request, on_phase)
            spent = time.monotonic() - started
            seconds += self.executor.last_seconds if isinstance(self.executor, Scheduling) else spent
            return measurement

        measurement = until_valid(request, run, self._announce, shared_gpu=self._settings.shared_gpu)
        return Timed(measurement, seconds)

    def _settled(self, taken: Timed, against: Reference | None, more: More | None) -> tuple[Timed, RowVerdict]:
        """The verdict on *taken*, or on the fresh processes that the plan has it confirmed by; the seconds of all."""
        plan = self.plan
        measurement, seconds = taken
        screening = judge(measurement, against, self._tolerances, alpha=plan.alpha)
        looks: list[RowVerdict] = []
        step = next_step(plan, screening)
        while step.verdict is None and more is not None:
            if self._budget is not None and self._budget <= 0:
                return Timed(measurement, seconds), _unconfirmed((screening, *looks)[-1])
            fresh = more(step.processes)
            seconds += fresh.seconds
            if self._budget is not None:
                self._budget -= fresh.seconds
            measurement = joined(measurement, fresh.measurement) if looks else fresh.measurement
            looks.append(judge(measurement, against, self._tolerances, alpha=plan.alpha))
            step = next_step(plan, screening, looks)
        return Timed(measurement, seconds), step.verdict or screening

    def _decide(self, name: str, verdict: RowVerdict, measurement: Measurement, *, has_baseline: bool) -> _Decided:
        if measurement.outcome == "unavailable" and not has_baseline:
            return _Decided("skip", f"unavailable: {measurement.reason}")
        if verdict.failed:
            return _Decided("fail", failure_sentence(name, verdict))
        if verdict.undecided:
            return _Decided("pass", failure_sentence(name, verdict))
        if verdict.status != "no baseline":
            return _Decided("pass")
        if measurement.outcome not in RECORDABLE:
            return _Decided("fail", f"{name}: {verdict.reason}")
        hint = f"{name}: {verdict.reason}; record one with --llmbench-update=missing"
        return _Decided("skip" if self._settings.missing == "skip" else "fail", hint)

    def _why_record(self, verdict: RowVerdict, measurement: Measurement) -> str | None:
        """The option by which a result with this verdict becomes the baseline, or None."""
        if verdict.status == "no baseline" and measurement.outcome not in RECORDABLE:
            return None
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


def _up_to_a_failure(processes: Iterable[Timed]) -> Timed:
    """Measurements of one case as one, up to the first that did not end well; no more of them are asked for."""
    each = iter(processes)
    measurement, seconds = next(each)
    while measurement.outcome == "ok" and (another := next(each, None)) is not None:
        measurement, seconds = joined(measurement, another.measurement), seconds + another.seconds
    return Timed(measurement, seconds)


def _unconfirmed(verdict: RowVerdict) -> RowVerdict:
    reason = f"not confirmed, the time of --llmbench-budget is used up: {verdict.reason}"
    return msgspec.structs.replace(verdict, status="inconclusive", undecided=True, reason=reason)


def _is_reusable(measurement: Measurement, workload: Workload) -> bool:
    """A measurement of the very same work that came to an end; what crashed or hung is taken again."""
    return measurement.workload == workload and measurement.outcome in ("ok", "oom", "unavailable")


def _short(path: Path) -> str:
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
