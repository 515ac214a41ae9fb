"""`llmbench history` over result files."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import surroundings
from pytest_llmbench.cli import app
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.results import Result


def environment(peft: str) -> Environment:
    return surroundings.environment(
        device="Test GPU", device_memory_bytes=1, driver="1", cuda="13.0", packages={"peft": peft}
    )


def write(path: Path, busy: list[float], *, peft_from: int | None = None) -> Path:
    """A file of one row, measured once a day."""
    lines = []
    for day, seconds in enumerate(busy, start=1):
        measurement = Measurement(
            case=Case(model="qwen-7b-chat"),
            workload=Workload(),
            environment=environment("0.21.2" if peft_from is not None and day > peft_from else "0.21.0"),
            processes=(Process(outcome="ok", metrics={"device_busy_seconds_per_sample": seconds}),),
            measured_at=f"2026-11-{day:02}T03:00:00+00:00",
        )
        verdict = RowVerdict(status="unchanged", reason="")
        result = Result(
            nodeid="t", table="speed", row="a", measurement=measurement, verdict=verdict, decision="pass", message="",
            seconds=1.0,
        )  # fmt: skip
        lines.append(msgspec.json.encode(result) + b"\n")
    path.write_bytes(b"".join(lines))
    return path


JITTER = (0.9995, 1.0005, 1.0, 0.9998, 1.0002)
FLAT = [0.25 * JITTER[day % 5] for day in range(12)]
STEPPED = [0.25 * JITTER[day % 5] * (1.008 if day >= 7 else 1.0) for day in range(12)]


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["history", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_step_within_every_tolerance_is_told_with_its_date_and_packages(tmp_path: Path) -> None:
    code, told = run(write(tmp_path / "runs.jsonl", STEPPED, peft_from=7))

    assert code == 0
    assert "speed[a] on Test GPU" in told
    assert "device_busy_seconds_per_sample stepped by +0.8 %" in told
    assert "between 2026-11-07T03:00:00+00:00 and 2026-11-08T03:00:00+00:00; packages: peft 0.21.0 -> 0.21.2" in told


def test_what_became_worse_fails_where_that_is_asked_for(tmp_path: Path) -> None:
    assert run(write(tmp_path / "worse.jsonl", STEPPED), "--fail")[0] == 1
    assert run(write(tmp_path / "better.jsonl", STEPPED[::-1]), "--fail")[0] == 0


def test_a_flat_series_has_no_findings(tmp_path: Path) -> None:
    code, told = run(write(tmp_path / "runs.jsonl", FLAT), "--fail")

    assert code == 0
    assert told.startswith("llmbench: 0 findings in 1 row")


def test_files_are_put_in_the_order_of_time(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.jsonl", STEPPED).read_bytes().splitlines(keepends=True)
    (tmp_path / "late.jsonl").write_bytes(b"".join(whole[6:]))
    (tmp_path / "early.jsonl").write_bytes(b"".join(whole[:8]))  # two are in both

    assert run(tmp_path / "late.jsonl", tmp_path / "early.jsonl") == run(tmp_path / "whole.jsonl")


def test_too_few_runs_are_said(tmp_path: Path) -> None:
    assert "of which 0 have the 6 runs or more" in run(write(tmp_path / "runs.jsonl", FLAT[:4]))[1]


@pytest.mark.parametrize("arguments", [["missing.jsonl"], ["--metric", "speed", "x.jsonl"]])
def test_bad_input_is_said(arguments: list[str]) -> None:
    code, told = run(*arguments)

    assert code == 2
    assert told.startswith("llmbench: ")


def test_packages_are_not_called_unchanged_where_nobody_looked_at_their_files(tmp_path: Path) -> None:
    _, told = run(write(tmp_path / "runs.jsonl", STEPPED))

    assert "; packages of the same version" in told


def test_the_commits_around_a_step_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.jsonl", STEPPED)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for day, line in enumerate(lines, start=1):
        line["measurement"]["environment"] |= {
            "origins": {"peft": {"digest": "0" if day <= 7 else "1", "edited": {"a.py": "1"} if day > 7 else {}}},
            "repository": {"commit": ("1" if day <= 7 else "2") * 40},
        }
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    _, told = run(path)

    assert "; packages: peft 0.21.0, files changed: a.py; repository 1111111 -> 2222222" in told
