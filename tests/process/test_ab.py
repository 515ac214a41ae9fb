"""`llmbench ab` with real environments that need no torch: tests/engine/test_ab.py measures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from library import edit, install
from pytest_llmbench.cli.ab import ab
from pytest_llmbench.stacks import StackError
from pytest_llmbench.stacks.stack import Source, open_stack

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


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_library_that_neither_side_has_is_unavailable(bare: Path, folder: Path) -> None:
    done = CliRunner().invoke(
        app, ["--a", str(bare), "--b", "bare", "--scale", "smoke", "--step", "steps:plain", "--json", "r.json"]
    )

    assert done.exit_code == 3, done.output
    assert "unavailable in A and B: torch cannot be imported" in " ".join(done.stdout.split())
    assert document(folder / "r.json")["rows"][0]["outcomes"] == {"a": "unavailable", "b": "unavailable"}


def test_a_file_whose_environment_has_changed_is_not_gone_on_with(bare: Path, folder: Path) -> None:
    asked = ["--a", "bare", "--b", "bare", "--scale", "smoke", "--step", "steps:plain", "--results", "r.jsonl"]
    CliRunner().invoke(app, asked)
    (site,) = open_stack(str(bare), Source(), print).interpreter.site_folders
    about = Path(site) / "torch-9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9\n")
    refused = CliRunner().invoke(app, ["--resume", "r.jsonl"])

    assert refused.exit_code == 2
    assert "is no longer what was measured: torch 9 (new); start a new comparison" in refused.stderr


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ([], "name both environments"),
        (["--a", "current"], "name both environments"),
        (["--a", "current", "--b", "missing", "--scale", "smoke"], "no such file or folder"),
        (["--a", "current", "--b", "current", "--table", "speed"], "no table 'speed'"),
        (["--a", "current", "--b", "current", "-k", "llama"], "selects no row"),
        (["--a", "current", "--b", "current", "-k", "7b and"], "a word is missing at the end"),
        (["--a", "current", "--b", "current", "--device", "cpu"], "add --scale smoke"),
        (["--a", "current", "--b", "current", "--tolerance", "x=1%"], "unknown metric"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(options: list[str], refusal: str, folder: Path) -> None:
    refused = CliRunner().invoke(app, options)

    assert refused.exit_code == 2
    assert refusal in refused.stderr
    assert not (folder / "llmbench-results").exists()


def test_an_environment_of_another_python_is_brought_the_worker(folder: Path) -> None:
    python = _other_python()
    subprocess.run([python, "-m", "venv", "--without-pip", folder / "other"], check=True)
    try:
        stack = open_stack("other", Source(), print)
    except StackError as error:
        pytest.skip(f"no index to install msgspec from: {error}")

    assert stack.interpreter.version[:2] != sys.version_info[:2]
    statement = "import pytest_llmbench.worker.server, msgspec"
    subprocess.run([stack.python, "-c", statement], env=stack.environ(), check=True)


def _other_python() -> str:
    """An interpreter of another version that the worker can use."""
    beside = sorted(Path(sys.base_prefix).parent.glob("*/bin/python3"), reverse=True)
    on_path = [shutil.which(f"python3.{minor}") for minor in (14, 13, 12)]
    check = f"import sys; sys.exit(not (3, 11) <= sys.version_info[:2] != {sys.version_info[:2]})"
    for python in filter(None, [*map(str, beside), *on_path]):
        if subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip("there is no other Python here")


def test_a_file_that_is_edited_on_one_side_is_named(folder: Path) -> None:
    for name, text in (("one", "alpha = 32\n"), ("other", "alpha = 16\n")):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / name], check=True)
        (site,) = open_stack(name, Source(), print).interpreter.site_folders
        edit(install(Path(site)) / "tuners/lora.py", text)

    done = CliRunner().invoke(app, ["--a", "one", "--b", "other", "--scale", "smoke", "--step", "steps:plain"])

    assert "peft 0.19.2.dev0, files changed: tuners/lora.py" in " ".join(done.stdout.split())


def test_a_file_whose_environment_was_edited_is_not_gone_on_with(bare: Path, folder: Path) -> None:
    (site,) = open_stack(str(bare), Source(), print).interpreter.site_folders
    package = install(Path(site))
    asked = ["--a", "bare", "--b", "bare", "--scale", "smoke", "--step", "steps:plain", "--results", "r.jsonl"]
    CliRunner().invoke(app, asked)
    edit(package / "tuners/lora.py", "alpha = 16\n")
    refused = CliRunner().invoke(app, ["--resume", "r.jsonl"])

    assert refused.exit_code == 2
    assert "peft 0.19.2.dev0, files changed: tuners/lora.py; start a new comparison" in refused.stderr
