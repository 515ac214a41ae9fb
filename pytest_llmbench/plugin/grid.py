"""The test that `--llmbench-model` runs: a standard grid over that model, without a test file of the user's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath

import pytest

from pytest_llmbench.plugin.options import chosen_model
from pytest_llmbench.schema.case import Case, CaseError, Quantization, Tuner
from pytest_llmbench.tables import Row

__all__ = ["standard_grid", "test_standard_grid"]

_LENGTHS = (512, 1024, 2048)
_KINDS: tuple[tuple[str, Tuner, Quantization, bool], ...] = (
    ("lora", "lora", "bf16", True),
    ("lora-no-checkpointing", "lora", "bf16", False),
    ("bnb-nf4", "lora", "bnb-nf4", True),
    ("full", "full", "bf16", True),
    ("full-no-checkpointing", "full", "bf16", False),
)


def standard_grid(model: str) -> tuple[Row, ...]:
    """
    LoRA and full fine-tuning with checkpointing on and off, and LoRA over nf4, each at three lengths.

    Attention is torch's own, which every model has.

    Args:
        model: as `Case.model` takes it; rows are named after its last part.

    Raises:
        CaseError: the model cannot be one.
    """
    name = re.sub(r"[^\w.-]+", "-", PurePath(model).name) or "model"
    return tuple(
        Row(
            f"{name}-{kind}-{max_length}",
            Case(
                model=model,
                tuner=tuner,
                quantization=quantization,
                max_length=max_length,
                gradient_checkpointing=checkpointing,
                attention="sdpa",
            ),
        )
        for kind, tuner, quantization, checkpointing in _KINDS
        for max_length in _LENGTHS
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    try:
        rows = standard_grid(chosen_model(metafunc.config))
    except CaseError as error:
        raise pytest.UsageError(f"--llmbench-model: {error}") from None
    metafunc.parametrize("row", rows, ids=[row.id for row in rows])


@pytest.mark.gpu
def test_standard_grid(llmbench: Callable[[Case], object], row: Row) -> None:
    """One row of the grid."""
    llmbench(row.case)
