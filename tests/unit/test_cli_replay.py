"""`llmbench replay`: which row is meant, and what is printed of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from pytest_llmbench.cli.replay import _process as lines_of
from pytest_llmbench.cli.replay import choose, replay
from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Evidence, Measurement, Process, failed
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.results import Result
from pytest_llmbench.tables import TABLES

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


def test_a_row_of_the_tables_goes_by_its_whole_name() -> None:
    chosen = choose("batch_size[qwen-7b-chat-batch-4]", None, "full")

    assert chosen.request.case == TABLES["batch_size"].rows[2].case
    assert chosen.request.workload == Workload()


def test_a_row_goes_by_its_own_name_where_that_is_the_only_one() -> None:
    assert choose("qwen-7b-chat-batch-4", None, "full").table == "batch_size"


def test_a_name_of_several_rows_is_refused_with_their_whole_names() -> None:
    with pytest.raises(
        ValueError, match=r"several rows; write one of lora_max_length\[qwen-7b-chat-512\], full_max_length"
    ):
        choose("qwen-7b-chat-512", None, "full")


def test_an_unknown_row_is_refused_with_what_it_could_be() -> None:
    with pytest.raises(ValueError, match=r"no row 'batch-4'; did you mean 'batch_size\[qwen-7b-chat-batch-4\]'"):
        choose("batch-4", None, "full")


def test_at_smoke_scale_a_row_is_a_miniature_on_the_cpu() -> None:
    assert choose("qwen-7b-chat-batch-4", None, "smoke").request.workload == Workload(scale="smoke", device="cpu")


def test_a_row_of_a_result_file_is_measured_as_it_was_there() -> None:
    workload = Workload(samples=64)
    chosen = choose("a", (result("a", workload=workload), result("b")), "smoke")

    assert chosen.request.case == Case.custom("steps:build", name="a")
    assert chosen.request.workload == workload


def test_figures_are_rounded_and_have_their_unit() -> None:
    rates: dict[str, Value] = {
        "samples_per_second": 9.265572717560243,
        "first_step_seconds": 0.012345678,
        "peak_reserved_bytes": (2**30,),
    }
    evidence = Evidence(power_watts=(301.123456,), idle_used_bytes=(2**29,), busy_seconds_per_sample=(0.0123456,))
    lines = list(lines_of(Process(outcome="ok", metrics=rates, evidence=evidence)))

    assert [line.split(maxsplit=1) for line in lines] == [
        ["samples_per_second", "9.266 /s"],
        ["first_step_seconds", "12.35 ms"],
        ["peak_reserved_bytes", "1.00 GiB"],
        ["idle_used_bytes", "0.50 GiB"],
        ["power_watts", "301.1"],
        ["busy_seconds_per_sample", "12.35 ms"],
    ]


@pytest.mark.parametrize("named", [(), ("--step", "other:build")])
def test_a_step_that_only_the_file_names_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text("open('imported', 'w').close()\ndef build(device):\n    return lambda: 2\n")
    written = tmp_path / "r.jsonl"
    case = Case.custom("evil:build", name="a")
    written.write_bytes(msgspec.json.encode(result("a", workload=Workload(scale="smoke", device="cpu"), case=case)))

    ran = CliRunner().invoke(app, ["a", "--results", str(written), *named])

    assert ran.exit_code == 2
    assert "row mine[a], field step: evil:build is code that only this file names; add --step evil:build" in ran.stderr
    assert not (tmp_path / "imported").exists()


def test_a_row_that_cannot_be_measured_here_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    ran = CliRunner().invoke(app, ["qwen-7b-chat-batch-4"])

    assert ran.exit_code == 2
    assert "no CUDA device" in ran.stderr


def test_a_trace_that_is_asked_for_is_part_of_the_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Request] = []

    def run(_: Machine, request: Request, on_phase: object) -> Measurement:
        asked.append(request)
        return failed(request.case, request.workload, "oom", "r", measured_at="now")

    monkeypatch.setattr(Machine, "run", run)
    monkeypatch.chdir(tmp_path)

    CliRunner().invoke(app, ["qwen-7b-chat-batch-4", "--scale", "smoke", "--trace", "step.json.gz"])

    assert [request.trace for request in asked] == [str(tmp_path / "step.json.gz")]
