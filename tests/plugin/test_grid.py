"""A standard grid over a model, without a test file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_llmbench.plugin.grid import standard_grid
from pytest_llmbench.schema.case import CaseError

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench


def test_the_grid_crosses_kinds_of_training_with_lengths() -> None:
    rows = standard_grid("qwen-7b-chat")

    assert len(rows) == len({row.id for row in rows}) == len({row.case for row in rows}) == 15
    assert {(row.case.tuner, row.case.quantization, row.case.gradient_checkpointing) for row in rows} == {
        ("lora", "bf16", True), ("lora", "bf16", False), ("lora", "bnb-nf4", True), ("full", "bf16", True),
        ("full", "bf16", False),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "row"), [("org/My model", "My-model-lora-512"), ("./dir/tiny", "tiny-lora-512"), ("yi-6b-chat", "yi-6b-chat-lora-512")]
)  # fmt: skip
def test_rows_are_named_after_the_model(model: str, row: str) -> None:
    try:
        names = [row.id for row in standard_grid(model)]
    except CaseError:
        pytest.skip("no such directory or hub id")

    assert names[0] == row


def test_a_run_without_a_test_file_measures_the_grid(bench: Bench) -> None:
    run = bench.run("--llmbench-model", "qwen-7b-chat", "--llmbench-missing=record")

    run.assert_outcomes(passed=15)
    assert set(bench.baseline("standard_grid").rows) == {row.id for row in standard_grid("qwen-7b-chat")}
    assert bench.asked() == ["qwen-7b-chat"] * 15


def test_a_row_of_the_grid_has_a_node_id_with_a_file(bench: Bench) -> None:
    run = bench.run("--llmbench-model=qwen-7b-chat", "-k", "chat-full-512")

    run.stdout.fnmatch_lines(["FAILED pytest_llmbench/grid.py::test_standard_grid[[]qwen-7b-chat-full-512] *"])
    bench.run("--llmbench-model=qwen-7b-chat", "--lf").assert_outcomes(failed=1)


def test_tests_that_are_named_beside_it_run_as_well(bench: Bench) -> None:
    bench.rows("a")

    run = bench.run("--llmbench-model", "qwen-7b-chat", "--llmbench-missing=record", "test_rows.py")

    run.assert_outcomes(passed=16)


def test_the_models_own_directory_can_be_given(bench: Bench) -> None:
    (bench.folder / "tiny").mkdir()
    (bench.folder / "tiny" / "config.json").write_text(json.dumps({"model_type": "llama"}))

    run = bench.run("--llmbench-model", "./tiny", "-k", "nf4", "--llmbench-missing=record")

    run.assert_outcomes(passed=3, deselected=12)


def test_what_cannot_be_a_model_is_a_usage_error(bench: Bench) -> None:
    run = bench.run("--llmbench-model", "qwen 7b?")

    assert run.ret != 0
    assert "--llmbench-model: " in run.stdout.str() + run.stderr.str()
