"""Every command that reads result files, over files that have nothing in them, or a line that is no result."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner
from typer.testing import Result as Ran

import surroundings
from pytest_llmbench.cli import app
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.results import Result

COMMANDS = {
    "show": ["show", "r.jsonl"],
    "show --fail": ["show", "--fail", "r.jsonl"],
    "report --html": ["report", "--html", "o.html", "r.jsonl"],
    "report --markdown": ["report", "--markdown", "r.jsonl"],
    "compare A": ["compare", "r.jsonl", "whole.jsonl"],
    "compare B": ["compare", "whole.jsonl", "r.jsonl"],
    "history": ["history", "r.jsonl"],
    "history --fail": ["history", "--fail", "r.jsonl"],
    "export csv": ["export", "r.jsonl", "--to", "csv"],
    "export junit": ["export", "r.jsonl", "--to", "junit"],
    "calibrate": ["calibrate", "--dry-run", "r.jsonl"],
    "replay": ["replay", "no such row", "--results", "r.jsonl"],
}
MEASUREMENT = Measurement(
    case=Case(model="qwen-7b-chat"),
    workload=Workload(),
    environment=surroundings.environment(device="Test GPU", packages={"torch": "2.11.0"}),
    processes=(Process(outcome="ok", metrics={"samples_per_second": 3.0}),),
    measured_at="2026-11-24T10:00:00+00:00",
)
LINE = msgspec.json.encode(
    Result(
        nodeid="t", table="speed", row="a", measurement=MEASUREMENT, verdict=RowVerdict(status="unchanged", reason=""),
        decision="pass", message="", seconds=1.0,
    )
) + b"\n"  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a baseline and a whole result file."""
    monkeypatch.chdir(tmp_path)
    BaselineStore(tmp_path / "baselines").record("speed", "a", MEASUREMENT, "first")
    (tmp_path / "whole.jsonl").write_bytes(LINE)
    return tmp_path


def run(command: str, content: bytes) -> Ran:
    Path("r.jsonl").write_bytes(content)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, COMMANDS[command])


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_file_ends_the_command_with_a_sentence(command: str) -> None:
    ran = run(command, b"")

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr == "llmbench: r.jsonl: there is no result in it\n"
    assert not Path("o.html").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_without_a_line_that_is_a_result_ends_the_command_with_a_sentence(command: str) -> None:
    ran = run(command, b"Dear diary,\n")

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("llmbench: r.jsonl, line 1: is not a result: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_line_that_is_no_result_is_named_and_the_others_are_used(command: str) -> None:
    whole = run(command, LINE)
    ran = run(command, b"Dear diary,\n" + LINE)

    warning, others = ran.stderr.split("\n", 1)
    assert warning.startswith("llmbench: r.jsonl, line 1: is not a result: ")
    assert warning.endswith("; the line is left out")
    assert (ran.exit_code, ran.stdout, others) == (whole.exit_code, whole.stdout, whole.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_without_a_process_ends_the_command_with_file_line_and_field(command: str) -> None:
    processes = msgspec.json.encode(MEASUREMENT.processes)

    ran = run(command, LINE.replace(b'"processes":' + processes, b'"processes":[]'))

    assert ran.exit_code == 2
    assert "r.jsonl, line 1: is not a result: Expected `array` of length >= 1 - at `$.measurement.proc" in ran.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_the_kernel_ends_the_command_unread(command: str, folder: Path) -> None:
    (folder / "r.jsonl").symlink_to("/proc/kmsg")

    ran = CliRunner(env={"COLUMNS": "200"}).invoke(app, COMMANDS[command])

    assert ran.exit_code == 2
    assert ran.stderr == "llmbench: r.jsonl: results cannot be read: it is not a file of a disk but /proc/kmsg\n"


def test_one_empty_file_among_others_is_named_and_the_others_are_used() -> None:
    Path("empty.jsonl").touch()

    ran = CliRunner().invoke(app, ["report", "--markdown", "empty.jsonl", "whole.jsonl"])

    assert ran.exit_code == 0
    assert ran.stderr == "llmbench: empty.jsonl: there is no result in it\n"


def test_history_over_nothing_that_ended_well_is_an_error() -> None:
    Path("failed.jsonl").write_bytes(LINE.replace(b'"outcome":"ok"', b'"outcome":"crashed"'))

    ran = CliRunner().invoke(app, ["history", "--fail", "failed.jsonl"])

    assert ran.exit_code == 2
    assert ran.stderr == "llmbench: failed.jsonl: no result in it ended well, and there is nothing to follow\n"
