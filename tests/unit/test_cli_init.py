"""`llmbench init`: what it writes works as it is, and nothing of the user's is lost."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from typer.testing import Result as Ran

from pytest_llmbench.cli.init import FILES, init

app = typer.Typer()
app.command()(init)


def ran(*arguments: str | Path) -> Ran:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_file_is_written_and_named(tmp_path: Path) -> None:
    told = ran(tmp_path)

    assert told.exit_code == 0
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(FILES)
    assert all(f"wrote {tmp_path / path}" in told.stdout for path in FILES)


def test_the_rows_are_of_the_model(tmp_path: Path) -> None:
    ran(tmp_path, "--model", "mistralai/Mistral-7B-v0.3")

    text = (tmp_path / "tests/llmbench/test_finetuning.py").read_text()
    assert text.count('model="mistralai/Mistral-7B-v0.3"') == 2


def test_a_model_that_does_not_exist_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    told = ran(tmp_path, "--model", "qwen-7b")

    assert told.exit_code == 2
    assert "did you mean 'qwen-7b-chat'?" in told.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_nor_half_written(tmp_path: Path) -> None:
    mine = tmp_path / "tox-llmbench.ini"
    mine.write_text("mine")

    told = ran(tmp_path)

    assert told.exit_code == 2
    assert "tox-llmbench.ini exist already, and nothing was written" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tox-llmbench.ini"]
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("link", ["baselines", "tests", "tox-llmbench.ini"])
def test_a_link_that_leads_out_of_the_repository_is_not_written_through(tmp_path: Path, link: str) -> None:
    repository, outside = tmp_path / "repository", tmp_path / "outside"
    repository.mkdir()
    outside.mkdir()
    (repository / link).symlink_to(outside / "planted" if "." in link else outside)

    told = ran(repository)

    assert told.exit_code == 2
    assert f"links lead {link}" in told.stderr
    assert [path.name for path in repository.iterdir()] == [link]
    assert list(outside.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tests").write_text("a file where a folder should be")

    told = ran(tmp_path)

    assert told.exit_code == 2
    assert "cannot be written" in told.stderr


def test_the_written_test_measures_both_rows(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(pytester.path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "plugin")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    plugins = ("-p", "pytest_llmbench.plugin", "-p", "canned")
    result = pytester.runpytest_inprocess(
        *plugins, "tests/llmbench", "-m", "gpu", "--llmbench", "--llmbench-missing=record", "--strict-markers"
    )

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*recorded*"])
    assert (pytester.path / "baselines/test-gpu/finetuning.json").exists()


def test_the_written_tox_file_is_one(tmp_path: Path) -> None:
    ran(tmp_path)
    parser = configparser.ConfigParser()
    parser.read(tmp_path / "tox-llmbench.ini")

    assert parser["testenv"]["commands"].startswith("pytest tests/llmbench -m gpu --llmbench")
