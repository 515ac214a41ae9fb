"""Rows that had another name: found where they are stored under it, and stored under the new one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_llmbench.plugin.grid import standard_grid
from pytest_llmbench.store.baseline import decode, encode
from pytest_llmbench.tables import TABLES
from pytest_llmbench.tables.renamed import former_row, row_of_today

ROOT = Path(__file__).parents[2]
H200 = ROOT / "baselines" / "nvidia-h200" / "quantization.json"


@pytest.mark.parametrize(
    ("table", "former", "today"),
    [
        ("quantization", "qwen-7b-chat-int4-gptq", "qwen-7b-chat-gptq-int4"),
        ("quantization", "qwen-14b-chat-int8-gptq", "qwen-14b-chat-gptq-int8"),
        ("quantization", "qwen-72b-chat-int4-bnb", "qwen-72b-chat-bnb-nf4"),
        ("quantization", "qwen-7b-chat-int4-bnb-trainer", "qwen-7b-chat-bnb-nf4-trainer"),
        ("standard_grid", "my-nf4-512", "my-bnb-nf4-512"),
        ("standard_grid", "my-nf4-2048-trainer", "my-bnb-nf4-2048-trainer"),
    ],
)
def test_a_former_name_leads_to_the_row_of_today(table: str, former: str, today: str) -> None:
    assert row_of_today(table, former) == today
    assert row_of_today(table, today) == today


@pytest.mark.parametrize(
    ("table", "row"),
    [("mine", "qwen-7b-chat-int4-bnb"), ("quantization", "mine-int4-bnb"), ("quantization", "qwen-7b-chat-bf16")],
)
def test_other_rows_keep_their_names(table: str, row: str) -> None:
    assert row_of_today(table, row) == row


def test_the_words_of_a_quantization_are_those_of_the_field() -> None:
    rows = (*TABLES["quantization"].rows, *standard_grid("qwen-7b-chat"))

    assert [row.id for row in rows if row.case.quantization != "bf16" and row.case.quantization not in row.id] == []
    assert sum(former_row("quantization", row.id) is not None for row in TABLES["quantization"].rows) == 9


def test_a_baseline_under_a_former_name_is_found_and_written_under_the_new_one(tmp_path: Path) -> None:
    stored = json.loads(H200.read_bytes())
    today = dict(stored["rows"])
    stored["rows"] = {former_row("quantization", name) or name: row for name, row in today.items()}
    assert stored["rows"].keys() != today.keys()

    file = decode(json.dumps(stored).encode(), tmp_path / "quantization.json")

    assert encode(file) == H200.read_bytes()


def test_of_two_names_of_one_row_the_one_of_today_counts(tmp_path: Path) -> None:
    stored = json.loads(H200.read_bytes())
    row = stored["rows"]["qwen-7b-chat-bnb-nf4"]
    stored["rows"]["qwen-7b-chat-int4-bnb"] = {**row, "recorded_because": "long ago"}

    file = decode(json.dumps(stored).encode(), tmp_path / "quantization.json")

    assert file.rows["qwen-7b-chat-bnb-nf4"].recorded_because == row["recorded_because"]
    assert len(file.rows) == 12


def test_pytest_selects_a_row_by_the_words_of_its_former_name() -> None:
    command = [sys.executable, "-m", "pytest", "tests/tables/test_quantization.py", "-k", "int4-bnb"]
    told = subprocess.run([*command, "--collect-only", "-q"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert sum("-bnb-nf4]" in line for line in told.stdout.splitlines()) == 3
    assert "3/12 tests collected" in told.stdout
