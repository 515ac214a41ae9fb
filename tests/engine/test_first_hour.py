"""The first hour of a new user, at smoke scale: init, record, judge, report, export, as the documentation says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

import forked
import forks


def llmbench(command: str, *arguments: str) -> Result:
    """A command, in the current folder."""
    app = Typer()
    app.command()(getattr(import_module(f"pytest_llmbench.cli.{command}"), command))
    return CliRunner().invoke(app, arguments)


def arguments(name: str) -> list[str]:
    """Of pytest."""
    return [
        "tests/llmbench",
        "-p",
        "no:cacheprovider",
        "--llmbench",
        "--llmbench-scale=smoke",
        f"--llmbench-results={name}.jsonl",
    ]


def measure(folder: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, which imports everything."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments(name), *options],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def measure_in_fork(folder: Path, name: str) -> tuple[int, str]:
    """The status of a run in a fork of this process, and what it printed."""
    said = folder / "said.txt"
    with said.open("w") as stream:
        run = forks.Fork(lambda: sys.exit(int(pytest.main(arguments(name)))), (stream.fileno(), stream.fileno()))
    return run.wait(), said.read_text()


def test_from_nothing_to_a_verdict_and_its_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert llmbench("init", ".", "--model", "qwen-1_8b-chat").exit_code == 0

    recorded = measure(tmp_path, "first", "--llmbench-missing=record")
    assert recorded.returncode == 0, recorded.stdout
    assert [path.parent.name for path in (tmp_path / "baselines").glob("*/finetuning.json")] == ["cpu-smoke"]

    forked.fork_servers(monkeypatch)
    status, judged = measure_in_fork(tmp_path, "second")
    assert status == 0, judged
    assert "2 unchanged" in judged

    markdown = llmbench("report", "first.jsonl", "second.jsonl", "--markdown")
    assert markdown.stdout.startswith("### llmbench: 2 rows passed"), markdown.stderr
    exported = llmbench("export", "second.jsonl", "--to", "csv")
    assert "finetuning,lora-512,unchanged" in exported.stdout


def test_a_replayed_row_leaves_a_trace_of_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    forked.fork_servers(monkeypatch)
    row = ("lora_rank[qwen-7b-chat-rank-2-default]", "--scale", "smoke")

    told = llmbench("replay", *row, "--trace", "step.json")

    assert "outcome ok" in told.stdout, told.stderr
    assert any(event["name"] == "aten::mm" for event in json.loads((tmp_path / "step.json").read_text())["traceEvents"])
