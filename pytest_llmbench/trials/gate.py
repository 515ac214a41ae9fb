"""
One run's measuring and judging: a case in, a decided result out.

Free of pytest: what a decision does to a test is the plugin's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from pytest_llmbench.executors import Executor, NotMeasurable, Scheduling, Timed
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.plan import Plan, Wanted, so_far
from pytest_llmbench.judge.sentence import failure_sentence
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case, Loop
from pytest_llmbench.schema.environment import CiRun, Repository
from pytest_llmbench.schema.measurement import Measurement, Process, joined, thinned
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.baselines import Baselines, BaselineStore
from pytest_llmbench.store.committed import CommittedBaselines
from pytest_llmbench.store.files import from_here
from pytest_llmbench.store.results import Decision, Result
from pytest_llmbench.store.update import RECORDABLE, RefusedUpdate, UpdateMode, novel_metrics, should_record
from pytest_llmbench.tables.renamed import row_of_today
from pytest_llmbench.trials.trial import PROCESS, STORED, disturbance, run, until_valid

__all__ = ["Gate", "Policy", "RowName", "Taken", "stored_row"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a run does with its rows."""

    baselines: Path
    """Folder of the baselines."""
    processes: int | Literal["auto"] = "auto"
    """Processes of each row; auto: what `trial.STORED` plans."""
    budget_seconds: float | None = None
    """Time that processes after the screening may take, in all."""
    loop: Loop | None = None
    """Loop in which built-in cases run instead of their own."""
    shared_gpu: bool = False
    """Whether other programs may use the GPUs."""
    missing: Literal["fail", "skip", "record"] = "fail"
    """What becomes of a row without a baseline."""
    update: UpdateMode | None = None
    """Which results become baselines."""
    reason: str | None = None
    """Reason that a recorded baseline carries."""


class _Decided(NamedTuple):
    """What becomes of a test, and what is said of it."""

    decision: Decision
    message: str = ""
    recorded: bool = False


OnPhase = Callable[[Phase], None]


class Taken(NamedTuple):
    """A measurement, and where it comes from."""

    measurement: Measurement
    written: Case
    """The case as the test has it; the run's options may have changed its loop."""
    seconds: float | None = None
    """Time from asking for a process until it was gone; None for a measurement of an earlier run, or of a user's."""
    on_phase: OnPhase | None = None
    """Hears of the processes that confirm it; None for a measurement that this gate did not take."""


class RowName(NamedTuple):
    """Under which name a test's result is stored."""

    nodeid: str
    table: str
    row: str

    @property
    def text(self) -> str:
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
        policy: what is done with the rows.
        workload: how every case is measured.
        executor: what runs the cases; closed with the gate.
        tolerances: those of the command line and the ini file, by metric.
        announce: called with a sentence when a process has to be measured again.
        resumed: results of an earlier run that need no measuring; of two for one case the later counts.
        repository: the repository under test.
        ci: the run of a CI service that this is.
        committed: baselines of a commit, which rows are held against in place of those of the working tree.
    """

    def __init__(  # noqa: PLR0913 - one run has all of these
        self,
        policy: Policy,
        workload: Workload,
        executor: Executor,
        *,
        tolerances: Mapping[str, Tolerance],
        announce: Callable[[str], None] = lambda _: None,
        resumed: Iterable[Result] = (),
        repository: Repository | None = None,
        ci: CiRun | None = None,
        committed: CommittedBaselines | None = None,
    ) -> None:
        self.workload = workload
        self.store = BaselineStore(policy.baselines)
        self._committed = committed
        self.references: Baselines = committed or self.store
        self.executor = executor
        self._policy = policy
        self._tolerances = tolerances
        self._announce = announce
        self._repository, self._ci = repository, ci
        self._budget = policy.budget_seconds
        self._resumed = {(result.nodeid, result.measurement.case): result.measurement for result in resumed}

    @property
    def plan(self) -> Plan:
        """How many processes a row gets."""
        if self._policy.processes == "auto":
            return STORED
        return Plan(max_processes=self._policy.processes, screen=self._policy.processes)

    def measure(self, nodeid: str, case: Case, on_phase: OnPhase) -> Taken:
        """
        The case's measurement; that of the resumed run, if it has one.

        It is measured in the loop that the run's options name, if they do.

        Raises:
            NotMeasurable: there is no device here for the case.
            SetupError: no case can be run as the run was set up.
        """
        as_run = self._as_run(case)
        if (resumed := self._resumed_one(nodeid, as_run)) is not None:
            return Taken(resumed, case, on_phase=on_phase)
        measurement, seconds = self._fresh(self._requests(as_run, self.plan.screen), on_phase)
        return Taken(measurement, case, seconds, on_phase)

    def requests(self, nodeid: str, case: Case) -> tuple[Request, ...]:
        """What `measure` will ask the executor for, unless a process has to be measured again."""
        case = self._as_run(case)
        if self._resumed_one(nodeid, case) is not None:
            return ()
        return self._requests(case, self.plan.screen)

    def _fresh(self, requests: Iterable[Request], on_phase: OnPhase) -> Timed:
        """Fresh processes of a case, up to the first that does not end well."""
        return _up_to_a_failure(self._valid(request, on_phase) for request in requests)

    def ahead(self, name: RowName, case: Case) -> Result | None:
        """
        What was measured ahead for a test that has not asked for it yet, not judged; None if that is not all
        of what `measure` would take, or would not be resumed.
        """
        requests = self.requests(name.nodeid, case)
        if not requests or not isinstance(self.executor, Scheduling):
            return None
        found = self.executor.ahead(requests)
        if not found or any(disturbance(one.measurement, shared_gpu=self._policy.shared_gpu) for one in found):
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
            verdict=RowVerdict(status="unmeasured", reason=why),
            decision="skip",
            message=why,
            seconds=taken.seconds,
        )

    def check(self, name: RowName, taken: Taken, on_more: Callable[[int], None] = lambda _: None) -> Result:
        """
        Judge a measurement and, if the run is to do so, make it the baseline.

        A baseline that cannot be read or written fails the row, and its measurement is not lost.

        Args:
            on_more: called with the number of processes that are about to confirm it.

        Raises:
            SetupError: more processes are wanted, and none can be run.
        """
        name = stored_row(name, taken.written, taken.measurement.case)
        try:
            against, is_added = self._reference(taken.measurement, name)
        except BaselineError as error:
            measurement, seconds = taken.measurement, taken.seconds
            verdict = RowVerdict(status="unmeasured", reason=f"its baseline cannot be read: {error}")
            decided = _Decided("fail", str(error))
        else:
            measurement, seconds, verdict = self._settled(taken, against, on_more)
            decided = self._decide(name.text, verdict, measurement, has_baseline=against is not None)
            if is_added:
                told = f"{name.text}: no baseline at {self._at}; held against the one that this change adds"
                decided = decided._replace(message="\n".join(filter(None, [decided.message, told])))
            if why := self._why_record(verdict, measurement):
                decided = self._record((name.table, name.row), measurement, why, decided)
            elif self._policy.update and (novel := novel_metrics(verdict)):
                decided = self._complete((name.table, name.row), measurement, novel, decided)
        return Result(
            nodeid=name.nodeid,
            table=name.table,
            row=name.row,
            measurement=measurement,
            verdict=verdict,
            decision=decided.decision,
            message=decided.message,
            recorded=decided.recorded,
            seconds=seconds,
        )

    def is_added(self, result: Result) -> bool:
        """Whether a row was held against a baseline that the commit lacks, and the working tree adds."""
        try:
            return self._reference(result.measurement, RowName(result.nodeid, result.table, result.row))[1]
        except BaselineError:
            return False

    def passes_by(self, result: Result, usual: Mapping[str, Tolerance]) -> bool:
        """Whether a row that passed would have failed by the limits *usual*, in place of this run's."""
        if result.decision != "pass" or result.recorded or result.verdict.failed or usual == self._tolerances:
            return False
        try:
            against, _ = self._reference(result.measurement, RowName(result.nodeid, result.table, result.row))
        except BaselineError:
            return False
        return judge(result.measurement, against, usual).failed

    def close(self) -> None:
        """End every measuring process."""
        self.executor.close()

    @property
    def _at(self) -> str:
        """The commit in words."""
        return "" if self._committed is None else str(self._committed.commit)

    def _reference(self, measurement: Measurement, name: RowName) -> tuple[Reference | None, bool]:
        """What a row is held against, and whether the commit lacks it and the working tree adds it."""
        found = self.references.find(measurement, name.table, name.row)
        if found is not None or self._committed is None:
            return found, False
        added = self.store.find(measurement, name.table, name.row)
        return added, added is not None

    def _as_run(self, case: Case) -> Case:
        if self._policy.loop is None or case.step is not None:
            return case
        return msgspec.structs.replace(case, loop=self._policy.loop)

    def _resumed_one(self, nodeid: str, case: Case) -> Measurement | None:
        resumed = self._resumed.get((nodeid, case))
        return resumed if resumed is not None and _is_reusable(resumed, self.workload) else None

    def _requests(self, case: Case, count: int) -> tuple[Request, ...]:
        return tuple(self._request(case, with_profile=number == 0) for number in range(count))

    def _request(self, case: Case, *, with_profile: bool) -> Request:
        return Request(
            case=case,
            workload=self.workload,
            with_profile=with_profile,
            repository=self._repository,
            ci=self._ci,
        )

    def _valid(self, request: Request, on_phase: OnPhase) -> Timed:
        """One process, and the seconds of all its tries."""
        seconds = 0.0

        def run() -> Measurement:
            nonlocal seconds
            started = time.monotonic()
            measurement = self.executor.run(request, on_phase)
            spent = time.monotonic() - started
            seconds += self.executor.last_seconds if isinstance(self.executor, Scheduling) else spent
            return measurement

        measurement = until_valid(request, run, self._announce, shared_gpu=self._policy.shared_gpu)
        return Timed(measurement, seconds)

    def _settled(
        self, taken: Taken, against: Reference | None, on_more: Callable[[int], None]
    ) -> tuple[Measurement, float | None, RowVerdict]:
        """The measurement that the plan has the row judged by, the seconds it took, and the verdict."""
        measurement, seconds = taken.measurement, taken.seconds

        def judged(processes: Sequence[Process]) -> RowVerdict:
            return judge(msgspec.structs.replace(measurement, processes=thinned(processes)), against, self._tolerances)

        if (on_phase := taken.on_phase) is None:
            return measurement, seconds, judged(measurement.processes)
        why = "not confirmed: no device is here for it"

        def observe(wanted: Wanted) -> tuple[Process, ...]:
            nonlocal measurement, seconds, why
            if self._budget is not None and self._budget <= 0:
                why = "not confirmed: the time of --llmbench-budget is used up"
                return ()
            on_more(wanted.count)
            try:
                # The profile was taken already.
                more = self._request(measurement.case, with_profile=False)
                fresh = self._fresh([more] * wanted.count, on_phase)
            except NotMeasurable:
                return ()
            seconds = (seconds or 0.0) + fresh.seconds
            if self._budget is not None:
                self._budget -= fresh.seconds
            measurement = joined(measurement, fresh.measurement)
            return fresh.measurement.processes

        step = run(self.plan, PROCESS, judged, observe, measurement.processes)
        found = so_far(PROCESS, measurement.processes, judged, why) if isinstance(step, Wanted) else step
        if found is None:  # no process ended well, and the row is not settled
            return measurement, seconds, judged(measurement.processes)
        return msgspec.structs.replace(measurement, processes=thinned(found.taken)), seconds, found.verdict

    def _decide(self, name: str, verdict: RowVerdict, measurement: Measurement, *, has_baseline: bool) -> _Decided:
        if measurement.outcome == "unavailable" and not has_baseline:
            return _Decided("skip", f"unavailable: {measurement.reason}")
        if verdict.failed:
            return _Decided("fail", failure_sentence(name, verdict))
        if verdict.status == "undecided":
            return _Decided("pass", failure_sentence(name, verdict))
        if verdict.status != "no baseline":
            return _Decided("pass")
        if measurement.outcome not in RECORDABLE:
            return _Decided("fail", f"{name}: {verdict.reason}")
        nowhere = f"no baseline at {self._at}, and none in the working tree" if self._committed else verdict.reason
        beside = ", in a run that judges by no commit" if self._committed else ""
        hint = f"{name}: {nowhere}; record one with --llmbench-update=missing{beside}"
        return _Decided("skip" if self._policy.missing == "skip" else "fail", hint)

    def _why_record(self, verdict: RowVerdict, measurement: Measurement) -> str | None:
        """The option by which a result with this verdict becomes the baseline, or None."""
        if verdict.status == "no baseline" and measurement.outcome not in RECORDABLE:
            return None
        mode: UpdateMode | None = self._policy.update
        if mode is not None and should_record(mode, verdict):
            return f"--llmbench-update={mode}"
        if self._policy.missing == "record" and verdict.status == "no baseline":
            return "--llmbench-missing=record"
        return None

    def _record(self, name: tuple[str, str], measurement: Measurement, why: str, decided: _Decided) -> _Decided:
        """Turns *decided* into a pass, unless the measurement cannot be recorded."""
        try:
            path = self.store.record(*name, measurement, self._policy.reason or f"recorded by {why}")
        except (RefusedUpdate, BaselineError) as error:
            return _Decided("fail", f"{decided.message}\n{error}".strip())
        return _Decided("pass", f"recorded in {from_here(path)}", recorded=True)

    def _complete(
        self, name: tuple[str, str], measurement: Measurement, metrics: Sequence[str], decided: _Decided
    ) -> _Decided:
        """Adds metrics that the baseline predates; *decided* stays, and says so."""
        try:
            path = self.store.complete(*name, measurement, metrics)
        except (RefusedUpdate, BaselineError) as error:
            return _Decided("fail", f"{decided.message}\n{error}".strip())
        told = f"added to {from_here(path)}: {', '.join(metrics)}"
        return decided._replace(message="\n".join(filter(None, [decided.message, told])))


def _up_to_a_failure(processes: Iterable[Timed]) -> Timed:
    """Measurements of one case as one, up to the first that did not end well; no more of them are asked for."""
    each = iter(processes)
    measurement, seconds = next(each)
    while measurement.outcome == "ok" and (another := next(each, None)) is not None:
        measurement, seconds = joined(measurement, another.measurement), seconds + another.seconds
    return Timed(measurement, seconds)


def _is_reusable(measurement: Measurement, workload: Workload) -> bool:
    """A measurement of the very same work that came to an end; what crashed or hung is taken again."""
    return measurement.workload == workload and measurement.outcome in ("ok", "oom", "unavailable")
