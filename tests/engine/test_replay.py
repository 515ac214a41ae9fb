"""`llmbench replay`: which row is meant, and what is printed of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

import forked
from pytest_llmbench.cli.replay import replay
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import failed
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.results import Result

app = typer.Typer()
app.command()(replay)


def result(row: str, table: str = "mine", workload: Workload | None = None, case: Case | None = None) -> Result:
    return Result(
        nodeid=f"t.py::test_{table}[{row}]",
        table=table,
        row=row,
        measurement=failed(
            case or Case.custom("steps:build", name=row), workload or Workload(), "oom", "r", measured_at="now"
        ),
        verdict=RowVerdict(status="regressed", reason="r"),
        decision="fail",
        message="",
        seconds=1.0,
    )


def test_everything_is_printed_and_without_a_baseline_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forked.fork_servers(monkeypatch)
    (tmp_path / "steps.py").write_text("def build(device):\n    return lambda: 2\n")
    written = tmp_path / "r.jsonl"
    small = Workload(scale="smoke", device="cpu")
    written.write_bytes(msgspec.json.encode(result("a", workload=small)) + b"\n")

    ran = CliRunner().invoke(app, ["a", "--results", str(written), "--step", "steps:build"])

    assert ran.exit_code == 0, ran.output
    for told in ("mine[a]", "step                    steps:build", "rounds", "outcome ok", "samples_per_second"):
        assert told in ran.stdout
    assert "not measured (the step returns no loss): loss_first, loss_last" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "verdict no baseline: no baseline is stored for this row"
