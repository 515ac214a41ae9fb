"""What becomes of a row that is measured against its baseline, by an executor whose answers are set here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from measurements import BUSY, CASE, LOSS, ended, good, is_open, measured
from pytest_llmbench.executors import NotMeasurable, Timed
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import CiRun, Repository
from pytest_llmbench.schema.measurement import AllocationShare, Evidence, KernelShare, Measurement, Process
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.results import Result
from pytest_llmbench.trials.gate import Gate, Policy, RowName, Taken, stored_row

NAME = RowName("test_file.py::test_row", "table", "row")


def took(seconds: float, **changes: Any) -> Process:
    """A process whose GPU worked so long on a sample."""
    return good({BUSY: seconds, LOSS: 2.0}, **changes)


AS_BEFORE = took(0.25)
OPEN = took(0.25 * 1.015)
"""Slower than noise alone often is, and not by so much that one process proves it."""
SLOW = took(0.25 * 1.1)
CROWDED = took(0.25, evidence=Evidence(foreign_processes=(1,)))


class Canned:
    """Answers with these processes in turn, and keeps what it was asked; with None there is no device."""

    def __init__(self, *answers: Process | None) -> None:
        self.left = list(answers)
        self.asked: list[Request] = []
        self.closed = False

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        self.asked.append(request)
        on_phase(Phase("rounds"))
        answer = self.left.pop(0)
        if answer is None:
            raise NotMeasurable("no GPU")
        return measured(answer, case=request.case, workload=request.workload)

    def close(self) -> None:
        self.closed = True


class Ahead(Canned):
    """A scheduler that has these measurements already, each of which took 3 s."""

    last_seconds = 3.0

    def schedule(self, requests: Iterable[Request], on_ahead: Callable[[], None]) -> None:
        """Nothing is left to measure ahead."""

    def ahead(self, requests: Iterable[Request]) -> tuple[Timed, ...]:
        wanted = list(requests)
        if len(self.left) < len(wanted):
            return ()
        return tuple(Timed(self.run(request, lambda _: None), 3.0) for request in wanted)


class Row:
    """One row of one gate."""

    def __init__(self, folder: Path, *answers: Process | None, executor: type[Canned] = Canned, **options: Any) -> None:
        tolerances: dict[str, Tolerance] = options.pop("tolerances", {})
        resumed: Iterable[Result] = options.pop("resumed", ())
        self.executor = executor(*answers)
        self.said: list[str] = []
        self.phases: list[Phase] = []
        self.more: list[int] = []
        self.gate = Gate(
            Policy(baselines=folder, **options),
            Workload(),
            self.executor,
            tolerances=tolerances,
            announce=self.said.append,
            resumed=resumed,
        )

    def baseline(self, *processes: Process) -> Row:
        self.gate.store.record("table", "row", measured(*processes or (AS_BEFORE,)), "a test")
        return self

    def taken(self, case: Case = CASE) -> Taken:
        return self.gate.measure(NAME.nodeid, case, self.phases.append)

    def result(self, case: Case = CASE) -> Result:
        return self.gate.check(NAME, self.taken(case), self.more.append)

    @property
    def num_asked(self) -> int:
        return len(self.executor.asked)


def of_earlier(measurement: Measurement) -> Result:
    """A result of the same test, of a run before."""
    return Result(
        nodeid=NAME.nodeid,
        table="table",
        row="row",
        measurement=measurement,
        verdict=RowVerdict(status="unchanged", reason="so"),
        decision="pass",
        message="",
        seconds=1.0,
    )


def test_a_row_that_did_not_move_takes_one_process_and_passes(tmp_path: Path) -> None:
    row = Row(tmp_path, AS_BEFORE).baseline()

    result = row.result()

    assert (result.decision, result.message, result.recorded) == ("pass", "", False)
    assert (row.num_asked, row.more) == (1, [])


def test_a_result_has_the_names_and_the_measurement_of_its_row(tmp_path: Path) -> None:
    result = Row(tmp_path, AS_BEFORE).baseline().result()

    assert (result.nodeid, result.table, result.row) == NAME
    assert result.measurement == measured(AS_BEFORE)


def test_a_slower_row_is_confirmed_by_four_more_processes_and_fails(tmp_path: Path) -> None:
    row = Row(tmp_path, *[SLOW] * 5).baseline()

    result = row.result()

    assert (result.decision, result.verdict.failed, row.more) == ("fail", True, [4])
    assert len(result.measurement.processes) == 5
    assert result.message.startswith("table[row]: device_busy_seconds_per_sample 0.25 -> 0.275 s")


def test_a_row_that_its_other_processes_do_not_confirm_passes(tmp_path: Path) -> None:
    result = Row(tmp_path, OPEN, *[AS_BEFORE] * 8).baseline().result()

    assert (result.decision, result.message, is_open(result.verdict)) == ("pass", "", False)


def test_the_second_look_is_at_the_processes_of_all_looks(tmp_path: Path) -> None:
    row = Row(tmp_path, *[OPEN] * 9).baseline()

    result = row.result()

    assert row.more == [4, 4]
    assert len(result.measurement.processes) == 9
    assert result.verdict.reason.endswith("with 8 more processes")


def test_a_row_that_noise_leaves_open_passes_and_its_message_says_what_is_open(tmp_path: Path) -> None:
    result = Row(tmp_path, *[OPEN] * 9).baseline().result()

    assert (result.decision, is_open(result.verdict)) == ("pass", True)
    assert result.message.startswith("table[row]: device_busy_seconds_per_sample 0.25 -> 0.2537 s, +1.5 %")


def test_one_process_of_a_row_looks_at_its_peak_of_memory(tmp_path: Path) -> None:
    row = Row(tmp_path, *[SLOW] * 5).baseline()

    row.result()

    assert [request.with_profile for request in row.executor.asked] == [True, False, False, False, False]


def test_what_the_peak_is_made_up_of_is_kept_when_more_processes_confirm_the_row(tmp_path: Path) -> None:
    share = (AllocationShare("aten::linear", 1, 2**30),)
    first = took(0.275, peak_allocations=share)

    result = Row(tmp_path, first, *[SLOW] * 4).baseline().result()

    assert result.measurement.peak_allocations == share


def test_kernels_are_kept_of_the_last_process_of_a_row(tmp_path: Path) -> None:
    seen = took(0.275, kernels=(KernelShare("gemm", 1.0, 0.2),))

    result = Row(tmp_path, *[seen] * 5).baseline().result()

    assert [len(process.kernels) for process in result.measurement.processes] == [0, 0, 0, 0, 1]


def test_the_case_and_the_workload_are_asked_for(tmp_path: Path) -> None:
    row = Row(tmp_path, *[SLOW] * 5).baseline()

    row.result()

    assert {(request.case, request.workload) for request in row.executor.asked} == {(CASE, Workload())}


def test_every_process_tells_its_phases(tmp_path: Path) -> None:
    row = Row(tmp_path, *[SLOW] * 5).baseline()

    row.result()

    assert row.phases == [Phase("rounds")] * 5


def test_a_process_that_fails_while_it_confirms_the_row_fails_it(tmp_path: Path) -> None:
    row = Row(tmp_path, SLOW, SLOW, ended("crashed"), SLOW, SLOW).baseline()

    result = row.result()

    assert (result.decision, result.measurement.outcome, row.num_asked) == ("fail", "crashed", 3)


def test_a_row_that_cannot_be_confirmed_here_is_open_and_says_why(tmp_path: Path) -> None:
    result = Row(tmp_path, SLOW, None).baseline().result()

    assert (result.decision, is_open(result.verdict)) == ("pass", True)
    assert result.verdict.reason.endswith("not confirmed: no device is here for it")


def test_without_a_device_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(NotMeasurable, match="no GPU"):
        Row(tmp_path, None).taken()


def test_a_measurement_of_the_users_own_is_judged_as_it_is(tmp_path: Path) -> None:
    row = Row(tmp_path).baseline()

    result = row.gate.check(NAME, Taken(measured(SLOW), CASE))

    assert (result.decision, row.num_asked, result.seconds) == ("fail", 0, None)


class Timing(Ahead):
    """Has nothing ahead; each process takes 3 s."""


def test_the_seconds_of_a_row_are_those_of_all_its_processes(tmp_path: Path) -> None:
    result = Row(tmp_path, *[SLOW] * 5, executor=Timing).baseline().result()

    assert result.seconds == 15.0


def test_the_seconds_of_a_process_are_the_wall_time_where_none_is_told(tmp_path: Path) -> None:
    seconds = Row(tmp_path, AS_BEFORE).taken().seconds

    assert seconds is not None
    assert 0 <= seconds < 60


@pytest.mark.parametrize(("budget", "asked"), [(0.0, 1), (0.1, 5), (12.0, 5), (12.1, 9)])
def test_a_look_is_begun_while_some_of_the_budget_is_left(tmp_path: Path, budget: float, asked: int) -> None:
    row = Row(tmp_path, *[OPEN] * 9, executor=Timing, budget_seconds=budget).baseline()

    row.result()

    assert row.num_asked == asked


def test_a_row_for_which_no_budget_is_left_is_open_and_says_so(tmp_path: Path) -> None:
    result = Row(tmp_path, SLOW, executor=Timing, budget_seconds=0.0).baseline().result()

    assert (result.decision, is_open(result.verdict)) == ("pass", True)
    assert result.verdict.reason.endswith("not confirmed: the time of --llmbench-budget is used up")


def test_all_rows_of_a_run_share_the_budget(tmp_path: Path) -> None:
    row = Row(tmp_path, *[SLOW] * 9, executor=Timing, budget_seconds=10.0).baseline()
    row.result()

    row.result()

    assert row.num_asked == 6


def test_a_number_of_processes_is_measured_at_once_and_is_final(tmp_path: Path) -> None:
    row = Row(tmp_path, *[OPEN] * 3, processes=3).baseline()

    result = row.result()

    assert (row.num_asked, row.more, len(result.measurement.processes)) == (3, [], 3)
    assert [request.with_profile for request in row.executor.asked] == [True, False, False]


def test_the_first_process_that_fails_is_the_last_of_its_row(tmp_path: Path) -> None:
    row = Row(tmp_path, AS_BEFORE, ended("oom"), AS_BEFORE, processes=3)

    assert (row.taken().measurement.outcome, row.num_asked) == ("oom", 2)


def test_the_seconds_of_several_processes_are_added_up(tmp_path: Path) -> None:
    assert Row(tmp_path, *[AS_BEFORE] * 3, processes=3, executor=Timing).taken().seconds == 9.0


def test_a_disturbed_process_is_measured_again_and_announced_and_its_time_counts(tmp_path: Path) -> None:
    row = Row(tmp_path, CROWDED, AS_BEFORE, executor=Timing)

    taken = row.taken()

    assert taken.measurement.processes == (AS_BEFORE,)
    assert (taken.seconds, len(row.said)) == (6.0, 1)


def test_a_gpu_that_is_shared_disturbs_nothing(tmp_path: Path) -> None:
    row = Row(tmp_path, CROWDED, shared_gpu=True)

    assert (row.taken().measurement.processes, row.said) == ((CROWDED,), [])


def test_a_tolerance_of_the_run_lets_a_speed_move(tmp_path: Path) -> None:
    row = Row(tmp_path, SLOW, tolerances={BUSY: Tolerance(relative=0.2)}).baseline()

    assert (row.result().decision, row.num_asked) == ("pass", 1)


def test_a_row_without_a_baseline_fails_and_says_how_to_record_one(tmp_path: Path) -> None:
    result = Row(tmp_path, AS_BEFORE).result()

    assert (result.decision, result.recorded) == ("fail", False)
    assert result.message == (
        "table[row]: no baseline is stored for this row; record one with --llmbench-update=missing"
    )


def test_a_row_without_a_baseline_is_skipped_if_the_user_wants_it(tmp_path: Path) -> None:
    assert Row(tmp_path, AS_BEFORE, missing="skip").result().decision == "skip"


@pytest.mark.parametrize(
    ("options", "because"),
    [
        ({"missing": "record"}, "recorded by --llmbench-missing=record"),
        ({"update": "missing"}, "recorded by --llmbench-update=missing"),
        ({"update": "all", "missing": "record"}, "recorded by --llmbench-update=all"),
        ({"update": "missing", "reason": "a new card"}, "a new card"),
    ],
)
def test_a_missing_baseline_is_recorded_with_its_reason(tmp_path: Path, options: dict[str, Any], because: str) -> None:
    row = Row(tmp_path, AS_BEFORE, **options)

    result = row.result()

    assert (result.decision, result.recorded) == ("pass", True)
    [(folder, file)] = row.gate.store.files()
    assert result.message == f"recorded in {tmp_path / folder / 'table.json'}"
    assert because in (tmp_path / folder / "table.json").read_text()
    assert file.measurement("row").processes == (AS_BEFORE,)


def test_a_baseline_below_the_current_folder_is_told_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert Row(tmp_path, AS_BEFORE, update="all").result().message == "recorded in nvidia-h200/table.json"


def test_a_row_that_did_not_move_is_not_recorded_as_missing(tmp_path: Path) -> None:
    assert not Row(tmp_path, AS_BEFORE, update="missing", missing="record").baseline().result().recorded


FLOPS = "flops_per_sample"


def test_an_update_adds_a_metric_that_the_baseline_predates_and_nothing_else(tmp_path: Path) -> None:
    now = good({BUSY: 0.2501, LOSS: 2.0, FLOPS: 7.0})
    row = Row(tmp_path, now, update="missing").baseline()

    result = row.result()

    assert (result.decision, result.recorded) == ("pass", False)
    assert result.message == f"added to {tmp_path / 'nvidia-h200' / 'table.json'}: {FLOPS}"
    [(_, file)] = row.gate.store.files()
    assert file.measurement("row").processes[0].metrics == {BUSY: 0.25, LOSS: 2.0, FLOPS: 7.0}


def test_a_metric_that_the_baseline_predates_stays_out_of_it_without_an_update(tmp_path: Path) -> None:
    row = Row(tmp_path, good({BUSY: 0.25, LOSS: 2.0, FLOPS: 7.0})).baseline()

    assert row.result().decision == "pass"
    [(_, file)] = row.gate.store.files()
    assert FLOPS not in file.measurement("row").processes[0].metrics


def test_a_row_that_failed_gets_no_metric(tmp_path: Path) -> None:
    row = Row(tmp_path, good({BUSY: 0.25, LOSS: 9.0, FLOPS: 7.0}), update="missing").baseline()

    assert row.result().decision == "fail"
    [(_, file)] = row.gate.store.files()
    assert FLOPS not in file.measurement("row").processes[0].metrics


def test_a_slower_row_that_is_recorded_passes(tmp_path: Path) -> None:
    row = Row(tmp_path, *[SLOW] * 5, update="failing").baseline()

    result = row.result()

    assert (result.decision, result.recorded) == ("pass", True)
    [(_, file)] = row.gate.store.files()
    assert file.measurement("row").processes == (SLOW,) * 5


def test_what_cannot_become_a_baseline_fails_and_says_both(tmp_path: Path) -> None:
    row = Row(tmp_path, ended("crashed"), update="all").baseline()

    result = row.result()

    assert (result.decision, result.recorded) == ("fail", False)
    first, second = result.message.splitlines()
    assert first.startswith("table[row]: crashed: why")
    assert "only 'ok' and 'oom' become baselines" in second


@pytest.mark.parametrize("options", [{}, {"missing": "record"}, {"missing": "skip"}, {"update": "all"}])
def test_a_crash_without_a_baseline_fails_and_offers_no_record(tmp_path: Path, options: dict[str, Any]) -> None:
    result = Row(tmp_path, ended("crashed"), **options).result()

    assert result.decision == "fail"
    assert result.message == "table[row]: crashed: why; no baseline is stored for this row"


def test_a_library_that_is_missing_skips_a_row_without_a_baseline(tmp_path: Path) -> None:
    result = Row(tmp_path, ended("unavailable")).result()

    assert (result.decision, result.message) == ("skip", "unavailable: why")


def test_a_library_that_is_missing_fails_a_row_with_a_baseline(tmp_path: Path) -> None:
    assert Row(tmp_path, ended("unavailable")).baseline().result().decision == "fail"


def test_a_baseline_that_cannot_be_read_fails_the_row_and_keeps_its_measurement(tmp_path: Path) -> None:
    row = Row(tmp_path, AS_BEFORE, executor=Timing).baseline()
    [path] = tmp_path.glob("*/table.json")
    path.write_text("{")

    result = row.result()

    assert (result.decision, result.verdict.failed, result.recorded) == ("fail", True, False)
    assert str(path) in result.message
    assert result.verdict.reason == f"its baseline cannot be read: {result.message}"
    assert (result.measurement.processes, result.seconds) == ((AS_BEFORE,), 3.0)


def test_a_row_that_was_measured_before_is_resumed(tmp_path: Path) -> None:
    row = Row(tmp_path, resumed=[of_earlier(measured(took(9.0))), of_earlier(measured(AS_BEFORE))]).baseline()

    result = row.result()

    assert (result.decision, result.seconds, row.num_asked) == ("pass", None, 0)
    assert row.gate.requests(NAME.nodeid, CASE) == ()


def test_a_resumed_row_that_is_slower_is_confirmed_and_what_that_took_is_told(tmp_path: Path) -> None:
    row = Row(tmp_path, *[SLOW] * 4, resumed=[of_earlier(measured(SLOW))], executor=Timing).baseline()

    result = row.result()

    assert (result.decision, row.more, result.seconds) == ("fail", [4], 12.0)
    assert row.phases == [Phase("rounds")] * 4


@pytest.mark.parametrize(
    "earlier",
    [
        measured(ended("crashed")),
        measured(ended("timeout")),
        measured(AS_BEFORE, workload=Workload(samples=8)),
        measured(AS_BEFORE, case=Case(model="qwen-14b-chat")),
    ],
)
def test_what_did_not_end_or_was_other_work_is_measured_again(tmp_path: Path, earlier: Measurement) -> None:
    row = Row(tmp_path, AS_BEFORE, resumed=[of_earlier(earlier)])

    row.taken()

    assert row.num_asked == 1


@pytest.mark.parametrize("outcome", ["oom", "unavailable"])
def test_what_another_run_would_not_change_is_resumed(tmp_path: Path, outcome: Any) -> None:
    row = Row(tmp_path, resumed=[of_earlier(measured(ended(outcome)))])

    assert row.taken().measurement.outcome == outcome


def test_a_result_of_another_test_is_not_resumed(tmp_path: Path) -> None:
    row = Row(tmp_path, AS_BEFORE, resumed=[of_earlier(measured(AS_BEFORE))])

    row.gate.measure("test_file.py::test_other", CASE, lambda _: None)

    assert row.num_asked == 1


def test_the_requests_of_a_row_are_those_that_it_will_ask_for(tmp_path: Path) -> None:
    row = Row(tmp_path, *[AS_BEFORE] * 2, processes=2, loop="trainer")
    foreseen = row.gate.requests(NAME.nodeid, CASE)

    row.taken()

    assert list(foreseen) == row.executor.asked


def test_the_loop_of_the_run_takes_the_place_of_the_rows_and_names_its_baseline(tmp_path: Path) -> None:
    result = Row(tmp_path, AS_BEFORE, loop="trainer", update="all").result()

    assert (result.measurement.case.loop, result.row) == ("trainer", "row-trainer")


def test_a_row_that_has_the_loop_of_the_run_keeps_its_name(tmp_path: Path) -> None:
    assert Row(tmp_path, AS_BEFORE, loop="step").result().row == "row"


def test_a_step_of_the_users_own_has_its_own_loop(tmp_path: Path) -> None:
    case = Case.custom("module:function", name="mine")

    assert Row(tmp_path, AS_BEFORE, loop="trainer").result(case).measurement.case == case


def test_a_row_of_an_earlier_release_has_the_name_of_today() -> None:
    name = RowName("n", "quantization", "qwen-7b-chat-int4-bnb")

    assert stored_row(name, CASE, CASE) == RowName("n", "quantization", "qwen-7b-chat-bnb-nf4")


def test_the_gate_closes_its_executor(tmp_path: Path) -> None:
    row = Row(tmp_path)

    row.gate.close()

    assert row.executor.closed


def test_what_was_measured_ahead_of_its_test_is_a_result_that_is_not_judged(tmp_path: Path) -> None:
    row = Row(tmp_path, *[AS_BEFORE] * 2, executor=Ahead, processes=2, loop="trainer").baseline()

    result = row.gate.ahead(NAME, CASE)

    assert result is not None
    assert (result.nodeid, result.table, result.row) == (NAME.nodeid, "table", "row-trainer")
    assert (result.decision, result.seconds, len(result.measurement.processes)) == ("skip", 6.0, 2)
    assert result.message == result.verdict.reason == "measured, and not judged: the run ended before its test"


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param((AS_BEFORE,), id="not all of it"),
        pytest.param((AS_BEFORE, CROWDED), id="disturbed"),
        pytest.param((AS_BEFORE, ended("crashed")), id="crashed"),
    ],
)
def test_what_could_not_be_resumed_is_no_result_ahead(tmp_path: Path, answers: tuple[Process, ...]) -> None:
    assert Row(tmp_path, *answers, executor=Ahead, processes=2).gate.ahead(NAME, CASE) is None


def test_a_shared_gpu_disturbs_nothing_ahead(tmp_path: Path) -> None:
    assert Row(tmp_path, CROWDED, executor=Ahead, shared_gpu=True).gate.ahead(NAME, CASE) is not None


def test_a_row_that_was_resumed_is_not_ahead_of_its_test(tmp_path: Path) -> None:
    row = Row(tmp_path, AS_BEFORE, executor=Ahead, resumed=[of_earlier(measured(AS_BEFORE))])

    assert row.gate.ahead(NAME, CASE) is None


def test_an_executor_that_measures_one_at_a_time_has_nothing_ahead(tmp_path: Path) -> None:
    assert Row(tmp_path, AS_BEFORE).gate.ahead(NAME, CASE) is None


def test_a_row_whose_budget_ends_with_its_first_look_is_told_by_all_its_processes(tmp_path: Path) -> None:
    row = Row(tmp_path, *[OPEN] * 5, executor=Timing, budget_seconds=12.0).baseline()

    result = row.result()

    assert (len(result.measurement.processes), result.seconds) == (5, 15.0)
    assert (result.decision, is_open(result.verdict)) == ("pass", True)


def test_every_process_is_told_the_repository_under_test_and_the_run(tmp_path: Path) -> None:
    row = Row(tmp_path, *[SLOW] * 10)
    row.gate = Gate(
        Policy(baselines=tmp_path),
        Workload(),
        row.executor,
        tolerances={},
        repository=Repository("1" * 40),
        ci=CiRun("CI"),
    )
    row.baseline().result()

    assert row.num_asked > 1
    assert {(one.repository, one.ci) for one in row.executor.asked} == {(Repository("1" * 40), CiRun("CI"))}
