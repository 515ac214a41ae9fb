"""`llmbench bisect` finds a planted regression among five packages, in real environments on the CPU."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

import forked
from pytest_llmbench.cli.bisect import bisect
from wheels import write_wheel

app = Typer()
app.command("bisect")(bisect)

pytestmark = pytest.mark.skipif(find_spec("pip") is None, reason="installs")

PARTS = ("part-a", "part-b", "part-c", "part-d", "part-e")
IDLE = "def work():\n    pass\n"
SLEEPS = "import time\n\ndef work():\n    time.sleep(0.2)\n"
ALLOCATES = "import torch\n\ndef work():\n    torch.ones(200 * 2**20, dtype=torch.uint8)\n"
STEP = f"""
import time
from importlib import import_module

import torch

PARTS = [import_module(name) for name in {[name.replace("-", "_") for name in PARTS]}]

def build(device):
    weight = torch.ones(64, 64, requires_grad=True)

    def step():
        for part in PARTS:
            part.work()
        time.sleep(0.02)  # long beside what other work on the machine costs it
        (weight @ weight).sum().backward()
        weight.grad = None
        return 1

    return step
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five packages of two versions each, and the step that uses them."""
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    forked.fork_servers(monkeypatch)
    (tmp_path / "trainer.py").write_text(STEP)
    (tmp_path / "wheels").mkdir()
    for name in PARTS:
        for version in ("1.0", "2.0"):
            write_wheel(tmp_path / "wheels", name, version, IDLE)
    for file, version in (("good.txt", "1.0"), ("bad.txt", "2.0")):
        pins = "".join(f"{name}=={version}\n" for name in PARTS)
        (tmp_path / file).write_text(f"--no-index\n--find-links wheels\n{pins}")
    return tmp_path


def bisected(*options: str) -> tuple[dict[str, Any], str]:
    """What the command found, and what it printed."""
    asked = [
        "--good",
        "good.txt",
        "--bad",
        "bad.txt",
        "--base",
        "current",
        "--installer",
        "pip",
        "--json",
        "found.json",
    ]
    done = CliRunner().invoke(app, [*asked, *options])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(Path("found.json").read_text())
    return found, done.stdout


CASE = (
    "--case",
    "trainer:build",
    "--scale",
    "smoke",
    "--samples",
    "4",
    "--pairs",
    "1",
    "--max-pairs",
    "3",
    "--results",
    "r.jsonl",
)


@pytest.mark.slow
def test_a_package_that_sleeps_is_found_by_the_speed_and_no_environment_is_left(folder: Path) -> None:
    write_wheel(folder / "wheels", "part-d", "2.0", SLEEPS)
    # Nothing is known of the noise of a CPU but what five pairs show.
    many = ("--max-pairs", "8", "--metric", "samples_per_second", "--tolerance", "samples_per_second=50%")
    found, told = bisected(*CASE, *many)

    assert (found["found"]["packages"], found["found"]["how"]) == (["part-d"], "alone")
    assert found["mixtures_measured"] <= 4
    assert "llmbench: part-d 1.0 -> 2.0 does it" in told
    assert not (folder / "cache" / "bisect").exists() or not list((folder / "cache" / "bisect").iterdir())
    # Everything is in the file: nothing is installed or measured again.
    before = Path("r.jsonl").read_bytes()
    assert bisected("--resume", "r.jsonl") == (found, told)
    assert Path("r.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_package_that_allocates_is_found_by_its_operators_and_then_its_version(folder: Path) -> None:
    for version in ("1.1", "1.2", "1.3", "2.0"):
        write_wheel(folder / "wheels", "part-b", version, IDLE if version == "1.1" else ALLOCATES)
    # The new part-a cannot be had with the old part-b.
    write_wheel(folder / "wheels", "part-a", "2.0", IDLE, needs="part-b>=1.1")
    found, told = bisected(*CASE, "--metric", "operators_per_sample", "--versions")

    assert found["found"] == {"packages": ["part-b"], "how": "alone", "mixture": ["part-b"]}
    assert found["mixtures_measured"] <= 4
    assert "last good version 1.1, first bad version 1.2" in told
