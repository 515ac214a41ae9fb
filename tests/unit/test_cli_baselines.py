"""`llmbench baselines diff`: what the working tree has otherwise than a commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from typer.testing import Result as Ran

from library import commit
from measurements import good, measured
from pytest_llmbench.cli import app
from pytest_llmbench.store.baselines import BaselineStore


def ran(*arguments: str) -> Ran:
    return CliRunner().invoke(app, ["baselines", "diff", *arguments])


def record(kernels: float, at: str) -> None:
    metrics = {"samples_per_second": 2.0, "kernels_per_sample": kernels}
    BaselineStore(Path("baselines")).record("speed", "a", measured(good(metrics), measured_at=at), "because")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a repository with one baseline, changed since its commit."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_text(".lock\n")
    record(100.0, "2026-11-24T10:00:00Z")
    commit(tmp_path)
    record(150.0, "2026-12-01T10:00:00Z")
    return tmp_path


def test_the_working_tree_is_held_against_the_last_commit() -> None:
    told = ran()

    assert told.exit_code == 0
    assert "1 row of the working tree differ from HEAD" in told.stdout
    assert "+50.0 % worse" in told.stdout


def test_markdown_and_json_are_written(here: Path) -> None:
    told = ran("HEAD", "--markdown", "out/x.md", "--json", "out/x.json")

    assert told.exit_code == 0
    assert (here / "out" / "x.md").read_text().startswith("### Baselines: 1 row")
    assert json.loads((here / "out" / "x.json").read_text())["rows"][0]["row"] == "a"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere: "),
        (("HEAD", "--baselines", "other"), "other: there is no such folder at HEAD"),
        (("HEAD", "--baselines", "/"), "no git repository holds it"),
    ],
)
def test_what_cannot_be_compared_ends_the_command_with_a_sentence(arguments: tuple[str, ...], words: str) -> None:
    told = ran(*arguments)

    assert told.exit_code == 2
    assert words in told.stderr


def test_a_file_that_cannot_be_read_is_named_and_exits_with_an_error(here: Path) -> None:
    [path] = (here / "baselines").glob("*/speed.json")
    path.with_name("bad.json").write_text("{")

    told = ran()

    assert told.exit_code == 2
    assert "+50.0 % worse" in told.stdout
    assert "bad.json: is not whole JSON" in told.stderr


def test_a_link_out_of_the_folder_is_refused(here: Path) -> None:
    (here / "baselines" / "out").symlink_to("/tmp")

    assert ran().exit_code == 2
