"""Environments that are installed from a file of requirements, with pip."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from pytest_llmbench.cli.ab import ab
from pytest_llmbench.stacks.stack import Source, open_stack
from wheels import write_wheel

app = Typer()
app.command("ab")(ab)

pytestmark = pytest.mark.skipif(find_spec("pip") is None, reason="installs")

PARTS = ("part-a", "part-b")
IDLE = "def work():\n    pass\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages of two versions each, and a file of each version."""
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wheels").mkdir()
    for name in PARTS:
        for version in ("1.0", "2.0"):
            write_wheel(tmp_path / "wheels", name, version, IDLE)
    for file, version in (("good.txt", "1.0"), ("bad.txt", "2.0")):
        pins = "".join(f"{name}=={version}\n" for name in PARTS)
        (tmp_path / file).write_text(f"--no-index\n--find-links wheels\n{pins}")
    return tmp_path


def test_an_environment_is_installed_from_a_file_once(folder: Path) -> None:
    said: list[str] = []
    source = Source(base="current", installer="pip")
    stack = open_stack("bad.txt", source, said.append)

    assert {name: stack.packages[name] for name in PARTS} == dict.fromkeys(PARTS, "2.0")
    assert "pytest" in stack.packages  # from the base
    assert any("Successfully installed part-a-2.0" in line for line in said)
    said.clear()
    assert open_stack("bad.txt", source, said.append) == stack
    assert said == []
    (folder / "wheels" / "part_a-2.0-py3-none-any.whl").unlink()
    (folder / "bad.txt").write_text("--no-index\n--find-links wheels\npart-a\n")
    assert open_stack("bad.txt", source, said.append).packages["part-a"] == "1.0"


def test_what_cannot_be_installed_is_told_with_the_last_words_of_the_installer(folder: Path) -> None:
    Path("bad.txt").write_text("--no-index\n--find-links wheels\npart-a==3.0\n")
    refused = CliRunner().invoke(
        app, ["--a", "current", "--b", "bad.txt", "--scale", "smoke", "--step", "m:f", "--installer", "pip"]
    )

    assert refused.exit_code == 2
    assert "bad.txt cannot be installed with pip; its last output:" in refused.stderr
    assert "No matching distribution found for part-a==3.0" in refused.stderr
    assert not [path for path in (folder / "cache" / "environments").iterdir() if path.is_dir()]
