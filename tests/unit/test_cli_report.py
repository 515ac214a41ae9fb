"""`llmbench report`, as it is typed: which of its three reports is made, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner
from typer.testing import Result as Ran

from pytest_llmbench.cli import app

BASELINES = Path(__file__).parents[2] / "baselines"


def report(*arguments: object) -> Ran:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_a_device_is_reported_beside_the_published_tables() -> None:
    ran = report("nvidia-h200", "--baselines", BASELINES)

    assert ran.exit_code == 0
    assert "## Quantization" in ran.stdout
    assert " rows are measured." in ran.stdout.splitlines()[0]


def test_a_device_without_baselines_is_an_error_that_names_it() -> None:
    ran = report("nvidia-none", "--baselines", BASELINES)

    assert ran.exit_code == 2
    assert ran.stderr == f"llmbench: {BASELINES}: no baselines of nvidia-none here\n"


def test_without_published_numbers_no_device_is_reported(tmp_path: Path) -> None:
    ran = report("nvidia-h200", "--baselines", tmp_path)

    assert ran.exit_code == 2
    assert ran.stderr == f"llmbench: {tmp_path}: no published numbers here\n"


@pytest.mark.parametrize("what", [("r.jsonl",), ("nvidia-h200", "nvidia-h100")])
def test_what_is_not_one_device_needs_a_form(what: tuple[str, ...]) -> None:
    ran = report(*what)

    assert ran.exit_code == 2
    assert ran.stderr.startswith(f"llmbench: {what[0]}: to show results add --html FILE or --markdown")


def test_a_file_of_results_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    ran = report(tmp_path / "r.jsonl", "--markdown")

    assert ran.exit_code == 2
    assert f"{tmp_path}/r.jsonl: results cannot be read" in ran.stderr
