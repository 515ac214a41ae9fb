"""The first hour of a new user, at smoke scale: init, record, judge, report, export, as the documentation says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

MAIN = "from pytest_llmbench.cli.{0} import {0}; import typer; a = typer.Typer(); a.command()({0}); a()"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=300)


def llmbench(folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-c", MAIN.format(command), *arguments)


def measure(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = (sys.executable, "-m", "pytest", "tests/llmbench", "-p", "no:cacheprovider")
    options = ("--llmbench", "--llmbench-scale=smoke", f"--llmbench-results={name}.jsonl")
    return run(folder, *start, *options, *arguments)


def test_from_nothing_to_a_verdict_and_its_reports(tmp_path: Path) -> None:
    assert llmbench(tmp_path, "init", ".", "--model", "qwen-1_8b-chat").returncode == 0

    recorded = measure(tmp_path, "first", "--llmbench-missing=record")
    assert recorded.returncode == 0, recorded.stdout
    assert [path.parent.name for path in (tmp_path / "baselines").glob("*/finetuning.json")] == ["cpu-smoke"]

    judged = measure(tmp_path, "second")
    assert judged.returncode == 0, judged.stdout
    assert "2 unchanged" in judged.stdout

    markdown = llmbench(tmp_path, "report", "first.jsonl", "second.jsonl", "--markdown")
    assert markdown.stdout.startswith("### llmbench: 2 rows passed"), markdown.stderr
    exported = llmbench(tmp_path, "export", "second.jsonl", "--to", "csv")
    assert "finetuning,lora-512,unchanged" in exported.stdout


def test_a_replayed_row_leaves_a_trace_of_one_step(tmp_path: Path) -> None:
    row = ("lora_rank[qwen-7b-chat-rank-2-default]", "--scale", "smoke")

    told = llmbench(tmp_path, "replay", *row, "--trace", "step.json")

    assert "outcome ok" in told.stdout, told.stderr
    assert any(event["name"] == "aten::mm" for event in json.loads((tmp_path / "step.json").read_text())["traceEvents"])
