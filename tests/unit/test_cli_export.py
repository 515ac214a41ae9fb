"""`llmbench export`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from typer.testing import Result as Ran

from measurements import SPEED, ended, measured
from pytest_llmbench.cli import app
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.store.results import Result, ResultLog


def write(path: Path, **rows: Measurement) -> Path:
    log = ResultLog(path)
    for row, measurement in rows.items():
        log.append(
            Result(
                nodeid=f"t.py::test_speed[{row}]",
                table="speed",
                row=row,
                measurement=measurement,
                verdict=RowVerdict(status="no baseline", reason="r"),
                decision="skip",
                message="",
                seconds=1.0,
            )
        )
    log.close()
    return path


def export(*arguments: object) -> Ran:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write(tmp_path / "r.jsonl", a=measured({SPEED: 2.0}))


def test_a_format_is_printed(results: Path) -> None:
    ran = export(results, "--to", "bencher")

    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["speed[a]"]["samples-per-second"]["value"] == 2.0


def test_a_format_is_written_into_a_file_and_its_folders_are_made(results: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "r.csv"

    ran = export(results, "--to", "csv", "-o", target)

    assert (ran.exit_code, ran.stdout) == (0, "")
    assert target.read_text() == export(results, "--to", "csv").stdout


def test_a_file_that_cannot_be_written_is_named(results: Path, tmp_path: Path) -> None:
    ran = export(results, "--to", "csv", "-o", tmp_path)

    assert ran.exit_code == 2
    assert ran.stderr == f"llmbench: {tmp_path}: cannot be written: Is a directory\n"


def test_of_two_results_for_a_row_the_newest_is_written_whichever_file_comes_first(
    results: Path, tmp_path: Path
) -> None:
    newer = write(tmp_path / "n.jsonl", a=measured({SPEED: 3.0}, measured_at="2026-11-25T10:00:00Z"))

    for files in ((results, newer), (newer, results)):
        told = json.loads(export(*files, "--to", "bencher").stdout)
        assert told["speed[a]"]["samples-per-second"]["value"] == 3.0


@pytest.mark.parametrize(("format_", "is_told"), [("bencher", True), ("csv", False)])
def test_a_row_that_measured_nothing_is_named_where_the_format_has_no_place_for_it(
    tmp_path: Path, format_: str, is_told: bool
) -> None:
    path = write(tmp_path / "r.jsonl", a=measured({SPEED: 2.0}), b=measured(ended("oom")))

    told = export(path, "--to", format_).stderr

    assert ("rows that measured nothing: speed[b]" in told) is is_told
