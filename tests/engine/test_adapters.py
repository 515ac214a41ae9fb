"""Which parameters a case trains, how many they are, and their dtype."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from pytest_llmbench.engine.adapters import attach, count_parameters
from pytest_llmbench.engine.models import architecture_of, build_model
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Scale, Workload

pytestmark = pytest.mark.versions


def _attached(case: Case, scale: Scale, device: str) -> Any:
    torch.manual_seed(1)
    model = build_model(case, Workload(scale=scale, device="cpu"), device)
    return attach(model, case, architecture_of(case.model, scale))


def _trainable_in_full_size(**axes: Any) -> int:
    case = Case(attention="sdpa", **axes)
    return count_parameters(_attached(case, "full", "meta"))[0]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"lora_rank": 2}, 1_048_576),
        ({"lora_rank": 8}, 4_194_304),
        ({"lora_rank": 64}, 33_554_432),
        ({"lora_rank": 8, "lora_targets": "all"}, 17_891_328),
    ],
)
def test_adapters_of_7b_have_the_published_size(axes: dict[str, Any], expected: int) -> None:
    assert _trainable_in_full_size(model="qwen-7b-chat", **axes) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [("qwen-1_8b-chat", 1_572_864), ("qwen-14b-chat", 6_553_600), ("qwen-72b-chat", 20_971_520)],
)
def test_default_adapters_of_the_other_sizes(model: str, expected: int) -> None:
    assert _trainable_in_full_size(model=model) == expected


def test_with_its_adapters_72b_has_the_published_size() -> None:
    model = _attached(Case(model="qwen-72b-chat", attention="sdpa"), "full", "meta")

    assert count_parameters(model)[1] == 72_308_891_648


def test_full_fine_tuning_trains_every_parameter() -> None:
    case = Case(model="qwen-7b-chat", tuner="full", attention="sdpa")

    assert count_parameters(_attached(case, "full", "meta")) == (7_721_324_544, 7_721_324_544)


@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_everything_is_bf16(tuner: Any) -> None:
    model = _attached(Case(model="qwen-7b-chat", tuner=tuner), "smoke", "cpu")

    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_only_adapters_are_trained_with_lora() -> None:
    model = _attached(Case(model="qwen-7b-chat"), "smoke", "cpu")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    assert trained
    assert all(".c_attn.lora_" in name for name in trained)


def test_all_targets_are_every_linear_layer_but_the_head() -> None:
    model = _attached(Case(model="qwen-7b-chat", lora_targets="all"), "smoke", "cpu")
    adapted = {name.removesuffix(".base_layer") for name, _ in model.named_modules() if name.endswith(".base_layer")}
    leaves = {"attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj"}

    assert adapted == {f"base_model.model.transformer.h.{index}.{leaf}" for index in range(2) for leaf in leaves}


def test_adapters_scale_and_drop_out_as_published() -> None:
    config = _attached(Case(model="qwen-7b-chat", lora_rank=2), "smoke", "cpu").peft_config["default"]

    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (2, 32, 0.05, "none")


@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_the_model_is_in_training_mode(tuner: Any) -> None:
    assert _attached(Case(model="qwen-7b-chat", tuner=tuner), "smoke", "cpu").training


def test_a_step_moves_only_adapters() -> None:
    model = _attached(Case(model="qwen-7b-chat"), "smoke", "cpu")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    tokens = torch.arange(1, 33).unsqueeze(0)
    for _ in range(2):  # the first step moves B only, as A's gradient is zero while B is
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}

    assert moved == {name for name in before if "lora_" in name}


def test_layers_that_peft_cannot_adapt_are_told_in_its_words() -> None:
    case = Case(model="qwen-7b-chat", attention="sdpa")
    architecture = architecture_of(case.model, "smoke")
    model = build_model(case, Workload(scale="smoke", device="cpu"), "meta")

    with pytest.raises(Unavailable, match=r"^model 'qwen-7b-chat' cannot be adapted by peft: .*no_layer"):
        attach(model, case, msgspec.structs.replace(architecture, default_targets=("no_layer",)))
