"""Result files: appended line by line, readable after any accident that a killed run can have."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process, Round
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.store.results import FORMAT, Result, ResultLog, UnwritableResult, latest, read_results


def result(row: str = "a", **changes: Any) -> Result:
    default = Result(
        nodeid=f"test_rows.py::test_speed[{row}]",
        table="speed",
        row=row,
        measurement=Measurement(
            case=Case.custom("steps:build", name=row),
            workload=Workload(),
            environment=None,
            processes=(
                Process(
                    outcome="ok",
                    reason="größer \N{SNOWMAN}",
                    metrics={"samples_per_second": 2.5, "peak_reserved_bytes": (1, 2)},
                ),
            ),
            measured_at="2026-11-24T10:00:00+00:00",
        ),
        verdict=RowVerdict(
            status="unchanged",
            metrics=(
                MetricVerdict(
                    metric="samples_per_second", status="unchanged", baseline=2.5, now=2.5, gates=True, reason="r"
                ),
            ),
            reason="1 metrics within their limits",
        ),
        decision="pass",
        message="",
        seconds=1.5,
    )
    return msgspec.structs.replace(default, **changes)


def write(path: Path, *results: Result) -> None:
    log = ResultLog(path)
    for one in results:
        log.append(one)
    log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.jsonl"


LINE = msgspec.json.encode(result()) + b"\n"


def test_results_come_back_in_their_order(path: Path) -> None:
    write(path, result("a"), result("b"), result("a"))

    assert read_results(path) == (result("a"), result("b"), result("a"))


def test_a_result_is_on_disk_when_append_returns(path: Path) -> None:
    log = ResultLog(path)
    log.append(result("a"))

    assert read_results(path) == (result("a"),)
    log.close()


def test_folders_are_made(tmp_path: Path) -> None:
    write(tmp_path / "one" / "two" / "r.jsonl", result())

    assert len(read_results(tmp_path / "one" / "two" / "r.jsonl")) == 1


def test_a_second_run_appends(path: Path) -> None:
    write(path, result("a"))
    write(path, result("b"))

    assert [one.row for one in read_results(path)] == ["a", "b"]


@given(cut=st.integers(1, len(LINE) - 1))
def test_a_run_killed_while_it_wrote_loses_that_result_only(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "r.jsonl"
    write(path, result("a"))
    with path.open("ab") as stream:
        stream.write(LINE[:-1][:cut])
    survivors = ["a"] if cut < len(LINE) - 1 else ["a", "a"]

    assert [one.row for one in read_results(path)] == survivors
    write(path, result("c"))
    assert [one.row for one in read_results(path)] == [*survivors, "c"]


def test_a_file_without_a_newline_at_its_end_is_whole(path: Path) -> None:
    path.write_bytes(LINE.rstrip())

    write(path, result("b"))

    assert [one.row for one in read_results(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"[1, 2]", "line 2: is not a result: Expected `object`, got `array`"),
        (b"Dear diary,", "line 2: is not a result: "),
        (b"\xff\xfe", "line 2: is not a result: "),
        (LINE.rstrip().replace(b'"ok"', b'"fine"'), "line 2: is not a result: Invalid enum value 'fine'"),
        (LINE.rstrip().replace(b"2.5", b"NaN"), "line 2: is not a result: "),
        (LINE.rstrip().replace(b'"row"', b'"line"'), "line 2: is not a result: Object contains unknown field `line`"),
        (LINE[:40], "line 2: is not a result: "),
        (b'{"format":%d,"novel":true}' % (FORMAT + 1), f"line 2: has format {FORMAT + 1}, .*; upgrade pytest-llmbench"),
    ],
)
def test_a_line_that_is_no_result_is_named(path: Path, line: bytes, told: str) -> None:
    path.write_bytes(LINE + line + b"\n" + LINE)

    with pytest.raises(ResultError, match=told):
        read_results(path)


NO_PROCESS = msgspec.json.encode(result()).replace(
    b'"processes":' + msgspec.json.encode(result().measurement.processes), b'"processes":[]'
)
HUGE = LINE.rstrip().replace(b'"samples_per_second":2.5', b'"samples_per_second":%d' % 2**63)
NEWER = b'{"format":%d,"novel":true}' % (FORMAT + 1)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"Dear diary,", "is not a result: JSON is malformed: invalid character (byte 0)"),
        (HUGE, "is not a result: measurement.processes[0].metrics.samples_per_second is a number of more than 64 bits"),
        (NO_PROCESS, "is not a result: Expected `array` of length >= 1 - at `$.measurement.processes`"),
        (NEWER, f"has format {FORMAT + 1}, this pytest-llmbench reads up to {FORMAT}; upgrade pytest-llmbench"),
    ],
)
def test_a_line_that_is_no_result_costs_no_other(path: Path, line: bytes, told: str) -> None:
    path.write_bytes(msgspec.json.encode(result("a")) + b"\n" + line + b"\n" + msgspec.json.encode(result("b")) + b"\n")
    said: list[str] = []

    assert [one.row for one in read_results(path, said.append)] == ["a", "b"]
    assert said == [f"{path}, line 2: {told}; the line is left out"]


def test_a_value_without_an_entry_is_no_result(path: Path) -> None:
    path.write_bytes(LINE.replace(b'"peak_reserved_bytes":[1,2]', b'"peak_reserved_bytes":[]'))

    with pytest.raises(ResultError, match=r"line 1: is not a result: Expected `array` of length >= 1 - at .*metrics"):
        read_results(path)


def test_of_many_lines_that_are_left_out_the_first_are_named(path: Path) -> None:
    path.write_bytes(LINE + b"Dear diary,\n" * 12)
    said: list[str] = []

    read_results(path, said.append)

    assert len(said) == 6
    assert said[-1] == f"{path}: 7 more lines are left out, which are no results either"


def test_a_file_of_which_no_line_is_a_result_is_refused(path: Path) -> None:
    path.write_bytes(b"Dear diary,\n" + NEWER)
    said: list[str] = []

    with pytest.raises(ResultError, match="line 1: is not a result"):
        read_results(path, said.append)
    assert said == []


@pytest.mark.parametrize(
    "process",
    [
        Process(outcome="ok", metrics={"samples_per_second": 10**25}),
        Process(outcome="ok", rounds=(Round(1.0, 2**63, 0),)),
        Process(outcome="ok", metrics={"samples_per_second": float("nan")}),
        Process(outcome="ok", rounds=(Round(float("inf"), 1, 0),)),
        Process(outcome="ok", ran={"dtype": "\udcff"}),
    ],
)
def test_a_result_that_could_not_be_read_is_not_written_and_the_file_takes_others(path: Path, process: Process) -> None:
    unreadable = result("b", measurement=msgspec.structs.replace(result().measurement, processes=(process,)))
    log = ResultLog(path)
    log.append(result("a"))

    with pytest.raises(UnwritableResult, match=r"the result of 'speed\[b\]' is not written, since "):
        log.append(unreadable)
    log.append(result("c"))
    log.close()

    assert [one.row for one in read_results(path)] == ["a", "c"]


def test_a_last_line_that_is_no_beginning_of_a_result_is_named_and_kept(path: Path) -> None:
    path.write_bytes(LINE + b"Dear diary,")

    with pytest.raises(ResultError, match="line 2: is not a result"):
        read_results(path)
    ResultLog(path).close()
    assert path.read_bytes().endswith(b"Dear diary,\n")


def test_empty_lines_are_passed_over(path: Path) -> None:
    path.write_bytes(b"\n" + LINE + b"\n  \n" + LINE)

    assert len(read_results(path)) == 2


def test_a_log_without_results_leaves_no_file(path: Path) -> None:
    ResultLog(path).close()

    assert not path.exists()


def test_an_empty_file_that_was_there_before_stays(path: Path) -> None:
    path.touch()

    ResultLog(path).close()

    assert path.exists()


def test_what_is_not_a_file_is_written_to_and_left_alone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    write(pipe, result())

    assert os.read(reader, 10_000) == LINE
    os.close(reader)
    assert pipe.exists()


def test_a_result_resumed_from_the_file_is_not_written_again(path: Path) -> None:
    write(path, result("a"), result("b"))
    log = ResultLog(path, read_results(path))

    log.append(result("a", seconds=None))
    log.append(result("b", seconds=None, decision="fail"))
    log.append(result("c", seconds=None))
    log.close()

    assert [(one.row, one.seconds) for one in read_results(path)] == [("a", 1.5), ("b", 1.5), ("b", None), ("c", None)]


def test_a_result_measured_again_is_written_again(path: Path) -> None:
    write(path, result("a"))
    log = ResultLog(path, read_results(path))

    log.append(result("a", seconds=2.0))
    log.close()

    assert [one.seconds for one in read_results(path)] == [1.5, 2.0]


@pytest.mark.parametrize("below", ["file/r.jsonl", "file/further/r.jsonl", "."])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ResultError, match=f"{tmp_path}.*: results cannot be written there: "):
        ResultLog(tmp_path / below)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(ResultError, match=f"{path}: results cannot be read: No such file or directory"):
        read_results(path)


def test_the_last_result_of_a_row_counts_where_it_stands() -> None:
    first, second, other = result("a"), result("a", seconds=9.0), result("b")

    assert latest([first, other, second]) == (other, second)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "unchanged"),
        ({"decision": "skip"}, "skipped"),
        ({"recorded": True}, "recorded"),
        ({"decision": "fail", "verdict": RowVerdict(status="regressed", reason="r")}, "regressed"),
    ],
)
def test_what_became_of_a_row_is_told_in_a_word(changes: dict[str, Any], told: str) -> None:
    assert result(**changes).told == told


def test_a_result_of_a_row_that_had_another_name_comes_back_under_todays(path: Path) -> None:
    write(path, result("qwen-7b-chat-int4-bnb", table="quantization"))

    assert [one.name for one in read_results(path)] == ["quantization[qwen-7b-chat-bnb-nf4]"]


OF_BEFORE = Path(__file__).parent / "results_with_one_status.jsonl"
"""Four results of a version that had `inconclusive` and a flag, as that version wrote them."""


def statuses(results: Iterable[Result]) -> dict[str, tuple[str, dict[str, str]]]:
    """The status of each row and of its gating metrics, but for what is unchanged."""
    return {
        one.row: (
            one.verdict.status,
            {metric.metric: metric.status for metric in one.verdict.metrics if metric.status != "unchanged"},
        )
        for one in results
    }


OF_TODAY = {
    "open": ("undecided", {"device_busy_seconds_per_sample": "undecided"}),
    "lost": ("unmeasured", {"device_busy_seconds_per_sample": "undecided", "kernels_per_sample": "unmeasured"}),
    "worse": ("regressed", {"device_busy_seconds_per_sample": "undecided", "kernels_per_sample": "regressed"}),
    "hot": ("unmeasured", {}),
}


def test_results_with_one_status_for_two_come_back_with_those_of_today() -> None:
    results = read_results(OF_BEFORE)

    assert statuses(results) == OF_TODAY
    assert [one.verdict.failed for one in results] == [one.decision == "fail" for one in results]


def test_a_last_line_of_before_without_a_newline_is_whole(path: Path) -> None:
    path.write_bytes(OF_BEFORE.read_bytes().rstrip(b"\n"))

    write(path, result("new"))

    assert statuses(read_results(path)) == {**OF_TODAY, "new": ("unchanged", {})}


def test_a_result_of_before_is_written_with_the_statuses_of_today(path: Path) -> None:
    write(path, *read_results(OF_BEFORE))

    assert b'"inconclusive"' not in path.read_bytes()
    assert statuses(read_results(path)) == OF_TODAY


def test_a_verdict_of_before_without_the_flag_is_unmeasured(path: Path) -> None:
    path.write_bytes(OF_BEFORE.read_bytes().replace(b'"undecided":true,', b""))

    assert statuses(read_results(path))["open"][0] == "unmeasured"


@pytest.mark.parametrize("verdict", ['"inconclusive"', '["inconclusive"]', '{"metrics": ["inconclusive"]}', "{}"])
def test_a_line_with_the_former_status_and_another_form_is_named(path: Path, verdict: str) -> None:
    path.write_text(f'{{"format": 1, "nodeid": "inconclusive", "verdict": {verdict}}}\n')

    with pytest.raises(ResultError, match="line 1: is not a result"):
        read_results(path)
