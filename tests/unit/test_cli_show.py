"""`llmbench show`, as it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner
from typer.testing import Result as Shown

from pytest_llmbench import __version__
from pytest_llmbench.cli import app
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import failed
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.results import Result, ResultLog


def result(row: str, **changes: Any) -> Result:
    metric = MetricVerdict(
        metric="samples_per_second",
        status="unchanged",
        baseline=2.0,
        now=2.0,
        change=0.0,
        limit=0.05,
        gates=True,
        reason="r",
    )
    default = Result(
        nodeid=f"t.py::test_speed[{row}]",
        table="speed",
        row=row,
        measurement=failed(Case.custom("m:f", name=row), Workload(), "oom", "r", measured_at="now"),
        verdict=RowVerdict(status="unchanged", metrics=(metric,), reason="r"),
        decision="pass",
        message="",
        seconds=2.0,
    )
    return msgspec.structs.replace(default, **changes)


REGRESSED = RowVerdict(status="regressed", reason="r")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """One row that passed, one that failed and passed when it was run again."""
    path = tmp_path / "r.jsonl"
    log = ResultLog(path)
    log.append(result("a"))
    log.append(result("b", verdict=REGRESSED, decision="fail", message="b: slower"))
    log.append(result("b"))
    log.close()
    return path


def add(path: Path, one: Result) -> None:
    log = ResultLog(path)
    log.append(one)
    log.close()


def show(*arguments: str | Path) -> Shown:
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, ["show", *map(str, arguments)])


def test_the_last_result_of_each_row_is_shown(path: Path) -> None:
    shown = show(path)

    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == "speed"
    assert [line.split() for line in lines[3:7]] == [
        ["a", "oom", "unchanged"],
        ["samples/s", "2", "2", "+0.0", "%", "±5.0", "%", "unchanged"],
        ["b", "oom", "unchanged"],
        ["samples/s", "2", "2", "+0.0", "%", "±5.0", "%", "unchanged"],
    ]
    assert lines[-1] == "llmbench: 2 unchanged; 4.00 s of measuring"


@pytest.mark.parametrize("message", ["speed[a]: slower", "a: slower", "slower", ""])
def test_a_failure_is_shown_with_its_table_and_is_no_error(path: Path, message: str) -> None:
    add(path, result("a", verdict=REGRESSED, decision="fail", message=message))

    shown = show(path)

    assert shown.exit_code == 0
    told = "slower" if message else REGRESSED.reason
    assert f"failed: speed[a]: {told}" in shown.stdout.splitlines()


def test_a_failure_names_the_table_of_its_row(path: Path) -> None:
    for table in ("speed", "length"):
        add(path, result("a", table=table, nodeid=table, verdict=REGRESSED, decision="fail", message="a: slower"))

    failed = [line for line in show(path).stdout.splitlines() if line.startswith("failed: ")]
    assert failed == ["failed: speed[a]: slower", "failed: length[a]: slower"]


def test_fail_passes_where_no_row_failed(path: Path) -> None:
    assert show(path, "--fail").exit_code == 0


def test_fail_fails_where_a_row_failed(path: Path) -> None:
    add(path, result("a", verdict=REGRESSED, decision="fail", message="a: slower"))

    assert show(path, "--fail").exit_code == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "results cannot be read: No such file or directory"),
        ("Dear diary,\n", "line 1: is not a result"),
        ("", "there is no result in it"),
        ('{"format":1,"nodeid"', "there is no result in it"),
    ],
)
def test_a_bad_file_is_an_error_with_its_name(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "r.jsonl"
    if content is not None:
        path.write_text(content)

    shown = show(path, "--fail")

    assert shown.exit_code == 2
    assert f"llmbench: {path}" in shown.stderr
    assert told in shown.stderr
    assert shown.stdout == ""


def test_a_missing_argument_is_a_usage_error() -> None:
    assert show().exit_code == 2


def test_output_into_a_pipe_has_no_colours(path: Path) -> None:
    add(path, result("a", verdict=REGRESSED, decision="fail"))
    command = [sys.executable, "-m", "pytest_llmbench.cli", "show", str(path), "--fail"]

    shown = subprocess.run(command, capture_output=True, text=True, check=False)

    assert shown.returncode == 1
    assert "regressed" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert shown.stderr == ""


def test_the_version_is_printed() -> None:
    shown = CliRunner().invoke(app, ["--version"])

    assert shown.exit_code == 0
    assert shown.stdout == f"pytest-llmbench {__version__}\n"


def test_without_a_command_the_commands_are_listed() -> None:
    shown = CliRunner().invoke(app, [])

    assert "Print the tables of a result file" in shown.output
