"""The published page with measured columns: every row is there, and what is unknown stays empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pytest_llmbench.cli import app
from pytest_llmbench.reports.reproduction import reproduction
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.published import load_published
from pytest_llmbench.tables import TABLES

ROOT = Path(__file__).parents[2]
BASELINES = ROOT / "baselines"


def line_of(text: str, *cells: str) -> str:
    start = f"| {' | '.join(cells)} |"
    [line] = [line for line in text.splitlines() if line.startswith(start)]
    return line


@pytest.fixture(scope="module", name="text")
def _text() -> str:
    store = BaselineStore(BASELINES)
    loaded = {name: store.load("nvidia-h200", name) for name in TABLES}
    return reproduction(load_published(BASELINES), {name: file for name, file in loaded.items() if file})


def test_every_published_row_has_a_line(text: str) -> None:
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]

    assert len(rows) == 96 + len(TABLES)


def test_a_measured_row_shows_both_memories_and_their_difference(text: str) -> None:
    assert "| 27.74 | 25.66 | -7.5% |" in line_of(text, "qwen-7b-chat", "2048", "flash", "1")


def test_a_row_that_was_not_measured_is_left_empty(text: str) -> None:
    assert line_of(text, "baichuan2-7b-chat", "512", "xformers", "1").endswith("| 18.18 |  |  |  |  |  |  |")


def test_of_several_gpus_the_difference_is_that_of_the_sum(text: str) -> None:
    assert "| 67.68+73.07 | 66.74+72.52 | -1.1% |" in line_of(text, "qwen-72b-chat", "512", "flash", "2")


def test_rows_that_are_not_of_the_page_are_not_counted(text: str) -> None:
    file = BaselineStore(BASELINES).load("nvidia-h200", "lora_rank")

    assert file is not None
    assert any(row.endswith("-trainer") for row in file.rows)
    assert text.startswith("91 of 96 rows are measured.")


def test_a_published_out_of_memory_is_shown_as_such(text: str) -> None:
    assert "| OOM |" in line_of(text, "qwen-72b-chat", "4096", "flash", "2")


def test_the_document_has_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["report", "nvidia-h200", "--baselines", str(BASELINES)])

    assert printed.exit_code == 0
    assert (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8").endswith(printed.stdout)


def test_a_device_without_baselines_is_an_error() -> None:
    printed = CliRunner().invoke(app, ["report", "no-such-gpu", "--baselines", str(BASELINES)])

    assert printed.exit_code == 2
    assert "no baselines of no-such-gpu" in printed.output
