"""What the backends of quantized weights share: finding layers, counting, and importing libraries."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_llmbench.engine.models import build_model
from pytest_llmbench.engine.quantization import (
    QuantizationUnavailable,
    logical_elements,
    quantizer,
)
from pytest_llmbench.engine.quantization.backend import linear_places, load_library
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions


def _small() -> Any:
    return build_model(Case(model="qwen-7b-chat"), Workload(scale="smoke", device="cpu"), "cpu")


def test_every_linear_layer_but_the_head_has_a_place() -> None:
    names = [place.name for place in linear_places(_small())]

    assert sorted(names) == sorted(2 * ["c_attn", "c_proj", "w1", "w2", "c_proj"])


def test_what_is_put_in_a_place_is_part_of_the_model() -> None:
    model = _small()
    place = next(place for place in linear_places(model) if place.name == "w1")
    layer = torch.nn.Identity()

    place.put(layer)

    assert model.transformer.h[0].mlp.w1 is layer


def test_an_unquantized_model_counts_what_it_holds() -> None:
    assert logical_elements(torch.nn.Linear(3, 5)) == 20


def test_tied_weights_count_once() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(7, 3), torch.nn.Linear(3, 7, bias=False))
    model[1].weight = model[0].weight

    assert logical_elements(model) == 21


def test_a_library_that_is_not_installed_is_named_with_its_cure() -> None:
    with pytest.raises(
        QuantizationUnavailable, match=r"^no_such is not installed: pip install 'pytest-llmbench\[x\]'$"
    ):
        load_library("no_such.part", "x")


@pytest.mark.parametrize("quantization", ["bnb-nf4", "bnb-int8"])
def test_without_bitsandbytes_its_cases_are_unavailable(monkeypatch: pytest.MonkeyPatch, quantization: Any) -> None:
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr(sys, "path", [])

    with pytest.raises(
        QuantizationUnavailable, match=r"^bitsandbytes is not installed: pip install 'pytest-llmbench\[bnb\]'$"
    ):
        quantizer(quantization)


@pytest.mark.parametrize(
    "statement",
    ["import no_such", "raise OSError('libcudart.so.13')", "import torch; torch.no_such", "raise RuntimeError('old')"],
)
def test_a_library_that_is_broken_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    (tmp_path / "broken_library.py").write_text(statement)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(QuantizationUnavailable, match=r"^broken_library is installed and does not load: \S"):
        load_library("broken_library", "x")


def test_a_library_cannot_change_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_KEPT", "old")
    monkeypatch.setenv("LLMBENCH_LOST", "old")
    (tmp_path / "meddling_library.py").write_text(
        "import os\n"
        "os.environ['LLMBENCH_KEPT'] = 'new'\n"
        "os.environ['LLMBENCH_ADDED'] = 'new'\n"
        "del os.environ['LLMBENCH_LOST']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(os.environ)

    load_library("meddling_library", "x")

    assert "meddling_library" in sys.modules
    assert dict(os.environ) == before


def test_the_environment_is_kept_also_by_what_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meddling_broken_library.py").write_text(
        "import os\nos.environ['LLMBENCH_ADDED'] = 'new'\nimport no_such"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(os.environ)

    with pytest.raises(QuantizationUnavailable):
        load_library("meddling_broken_library", "x")

    assert dict(os.environ) == before
