"""`llmbench bisect` finds a planted commit in the repository of a small library, in real environments on the CPU."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

import marked
import project
from library import git
from pytest_llmbench.cli.bisect import bisect
from wheels import write_wheel

app = Typer()
app.command("bisect")(bisect)

pytestmark = [pytest.mark.skipif(find_spec("pip") is None, reason="installs"), pytest.mark.slow]

IDLE = "def work():\n    pass\n"
ALLOCATES = "import torch\n\ndef work():\n    torch.ones(200 * 2**20, dtype=torch.uint8)\n"
GONE = f"import gone\n{IDLE}"
STEP = """
import torch

import part_a

def build(device):
    weight = torch.ones(64, 64, requires_grad=True)

    def step():
        part_a.work()
        (weight @ weight).sum().backward()
        weight.grad = None
        return 1

    return step
"""
CASE = ("--case", "trainer:build", "--scale", "smoke", "--samples", "4", "--pairs", "1", "--max-pairs", "3")
ENDS = ("--package", "part-a", "--repo", "repository", "--good", "v1.0", "--bad", "main", "--installer", "pip")


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    A library with a merge, and commits that do not import.

    The commit "Allocate" on the branch that is merged is bad, and so are the merge and all that comes after it.
    """
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainer.py").write_text(STEP)
    made = tmp_path / "repository"
    project.begin(made, IDLE)
    git(made, "tag", "v1.0")
    git(made, "switch", "-qc", "side")
    for subject, code in (("Side", IDLE), ("Allocate", ALLOCATES), ("Note", f"{ALLOCATES}# 1\n")):
        project.change(made, subject, code)
    git(made, "switch", "-q", "main")
    (made / "notes.txt").write_text("1")
    for subject, code in (("Break", GONE), ("Mend", IDLE)):
        project.change(made, subject, code)
    git(made, "merge", "-q", "--no-ff", "side", "-m", "Merge")
    for subject, code in (("Break again", GONE), ("Mend again", ALLOCATES)):
        project.change(made, subject, code)
    project.change(made, "Release", ALLOCATES, version="2.0")
    git(made, "tag", "v2.0")
    return made


def bisected(*options: str) -> tuple[dict[str, Any], str]:
    """What the command found, and what it printed."""
    done = CliRunner().invoke(app, [*options, "--json", "found.json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(Path("found.json").read_text())
    return found, done.stdout


def test_a_commit_on_a_merged_branch_is_found_with_its_place(repository: Path) -> None:
    found, told = bisected(*CASE, *ENDS, "--results", "r.jsonl")
    culprit = git(repository, "rev-parse", ":/Allocate")

    (suspect,) = found["commits"]["suspects"]
    assert (suspect["hash"], suspect["subject"], suspect["author"]) == (culprit, "Allocate", "a")
    assert f"llmbench: {culprit} is the first bad commit of part-a" in told
    (change,) = (line for line in told.splitlines() if line.startswith("llmbench:   change"))
    assert change.endswith("part_a.py:work")
    # Nothing is left, neither here nor in the repository.
    assert not list(Path("cache", "bisect").iterdir())
    assert git(repository, "status", "--porcelain") == ""
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_commits_that_do_not_import_are_passed_over_and_those_that_are_left_are_named(repository: Path) -> None:
    git(repository, "switch", "-qc", "work", "v1.0")
    for subject, code in (("Break it", GONE), ("Grow", ALLOCATES)):
        project.change(repository, subject, code)
    ends = (*ENDS[:4], "--good", "v1.0", "--bad", "work", "--installer", "pip", "--results", "other.jsonl")
    done = CliRunner().invoke(app, [*CASE, *ends])

    assert done.exit_code == 1, done.output
    assert "Break it: crashed: ModuleNotFoundError: No module named 'gone'" in done.stdout
    assert "the first bad commit of part-a could be any of these (1 step among 2 commits):" in done.stdout


def test_a_bisection_that_is_interrupted_is_gone_on_with() -> None:
    command = [sys.executable, "-m", "pytest_llmbench.cli", "bisect", *CASE, *ENDS]
    with subprocess.Popen(
        [*command, "--results", "r.jsonl"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=marked.heed_signals,  # noqa: PLW1509 - these tests have no threads
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if ": as " in line or ": passed over" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    before = Path("r.jsonl").read_bytes()

    assert process.returncode == 130
    assert "r.jsonl; --resume goes on with it" in rest
    found, _ = bisected(*ENDS, "--resume", "r.jsonl")
    assert [one["subject"] for one in found["commits"]["suspects"]] == ["Allocate"]
    assert Path("r.jsonl").read_bytes().startswith(before)


def test_after_the_package_its_commit_is_found(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    for name, version, code in (
        ("part-a", "1.0", IDLE),
        ("part-a", "2.0", ALLOCATES),
        ("part-b", "1.0", IDLE),
        ("part-b", "2.0", IDLE),
    ):
        write_wheel(tmp_path / "wheels", name, version, code)
    for file, version in (("good.txt", "1.0"), ("bad.txt", "2.0")):
        Path(file).write_text(f"--find-links wheels\npart-a=={version}\npart-b=={version}\n")
    locks = ("--good", "good.txt", "--bad", "bad.txt", "--base", "current", "--installer", "pip")
    found, told = bisected(*CASE, *locks, "--repo", "repository", "--results", "r.jsonl")

    assert found["found"]["packages"] == ["part-a"]
    assert [one["subject"] for one in found["commits"]["suspects"]] == ["Allocate"]
    assert "part-a 1.0 -> 2.0 does it" in told
    assert "is the first bad commit of part-a" in told
