"""Models of Llama's and Mistral's shape are transformers' own classes in the published sizes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
import transformers

from pytest_llmbench.engine.batches import make_batches
from pytest_llmbench.engine.models import build_model
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.tables import ALL_TABLES, Row
from pytest_llmbench.worker.measure import measure

pytestmark = pytest.mark.versions


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("yi-6b-chat", "LlamaForCausalLM"),
        ("yi-34b-chat", "LlamaForCausalLM"),
        ("openbuddy-zephyr-7b-chat", "MistralForCausalLM"),
    ],
)
def test_the_class_is_transformers_own(model: str, expected: str) -> None:
    built = build_model(Case(model=model, attention="sdpa"), Workload(device="cpu"), "meta")

    assert type(built) is getattr(transformers, expected)


@pytest.mark.parametrize(("model", "theta"), [("yi-6b-chat", 5e6), ("openbuddy-zephyr-7b-chat", 1e4)])
def test_positions_rotate_with_the_models_own_base(model: str, theta: float) -> None:
    built: Any = build_model(Case(model=model, attention="sdpa"), Workload(device="cpu"), "meta")

    assert built.model.rotary_emb.inv_freq.tolist() == pytest.approx([theta ** (-index / 64) for index in range(64)])


@pytest.mark.parametrize(("model", "window"), [("yi-6b-chat", None), ("openbuddy-zephyr-7b-chat", 4096)])
def test_only_zephyr_has_a_sliding_window(model: str, window: int | None) -> None:
    built: Any = build_model(Case(model=model, attention="sdpa"), Workload(device="cpu"), "meta")

    assert getattr(built.config, "sliding_window", None) == window


@pytest.mark.parametrize(("length", "sees"), [(64, True), (128, False)])
def test_a_token_sees_as_far_back_as_the_window(length: int, sees: bool) -> None:
    case = Case(model="openbuddy-zephyr-7b-chat", attention="sdpa")
    model: Any = build_model(case, Workload(scale="smoke", device="cpu"), "cpu", torch.float32).eval()
    (batch,) = make_batches([length], 1, 512, "cpu", seed=1)
    changed = batch.input_ids.clone()
    changed[0, 0] = batch.input_ids[0, 0] % 511 + 1  # two layers carry it 2 * 63 tokens far
    with torch.no_grad():
        before, after = (model(tokens).logits[0, -1] for tokens in (batch.input_ids, changed))

    assert torch.equal(before, after) is not sees


@pytest.mark.parametrize("row", ALL_TABLES["as_users_train"].rows, ids=lambda row: row.id)
def test_the_rows_of_how_users_train_run_as_miniatures(row: Row) -> None:
    case = msgspec.structs.replace(row.case, accumulation_steps=1)
    workload = Workload(scale="smoke", device="cpu", samples=4)

    [process] = measure(Request(case=case, workload=workload), lambda _: None).processes

    assert (process.outcome, process.reason) == ("ok", None)
    assert process.ran["attention"].startswith("sdpa")
