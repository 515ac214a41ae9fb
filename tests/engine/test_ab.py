"""`llmbench ab` with real environments and processes that measure on the CPU."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

import forked
import forks
from pytest_llmbench.cli.ab import ab

app = Typer()
app.command("ab")(ab)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.py").write_text(STEPS)
    return tmp_path


STEPS = """
import torch

def plain(device):
    weight = torch.ones(8, 8, requires_grad=True)
    return lambda: (weight @ weight).sum().backward() or 1
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A virtual environment with nothing in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return tmp_path / "bare"


def pairs(file: Path) -> int:
    return file.read_text().count('"kind":"pair"') if file.exists() else 0


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_library_that_one_side_lacks_is_unavailable_there(bare: Path, folder: Path) -> None:
    done = CliRunner().invoke(
        app, ["--a", "current", "--b", str(bare), "--scale", "smoke", "--step", "steps:plain", "--json", "r.json"]
    )

    assert done.exit_code == 3, done.output
    assert document(folder / "r.json")["rows"][0]["outcomes"] == {"a": "ok", "b": "unavailable"}
    assert any(change["name"] == "torch" for change in document(folder / "r.json")["package_changes"])


@pytest.mark.slow
def test_one_environment_against_itself_moves_nothing_however_often_it_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked.fork_servers(monkeypatch)
    results = folder / "r.jsonl"
    asked = ["--a", "current", "--b", "current", "-k", "lora_max_length and 512 and (qwen or yi)"]
    _ended_after(
        1, signal.SIGINT, results, *asked, "--scale", "smoke", "--pairs", "1", "--results", str(results), status=130
    )
    _ended_after(4, signal.SIGKILL, results, "--resume", str(results), status=-signal.SIGKILL)
    taken = results.read_bytes()

    def go_on(name: str) -> str:
        done = CliRunner().invoke(app, ["--resume", str(results), "--json", name, "--fail-on", "moved"])
        assert done.exit_code == 0, done.output
        return done.stdout

    table = go_on("one.json")
    assert results.read_bytes().startswith(taken[: taken.rfind(b"\n") + 1])
    assert [row["status"] for row in document(folder / "one.json")["rows"]] == ["unchanged"] * 6
    assert go_on("two.json") == table


def _ended_after(count: int, number: signal.Signals, results: Path, *arguments: str, status: int) -> None:
    """Type the command, and send it a signal once that many pairs are written down."""
    with Path("said.txt").open("w") as said:
        process = forks.Fork(partial(app, arguments), (said.fileno(), said.fileno()))
    deadline = time.monotonic() + 120
    while pairs(results) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    assert ("not measured to the end" in Path("said.txt").read_text()) == (number == signal.SIGINT)
