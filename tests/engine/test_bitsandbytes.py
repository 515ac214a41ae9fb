"""Weights in bitsandbytes' layers, with adapters over them, trained for real."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from pytest_llmbench.engine.adapters import attach, count_parameters
from pytest_llmbench.engine.models import architecture_of, build_model
from pytest_llmbench.engine.provenance import describe_parts
from pytest_llmbench.engine.training import FineTuning, build_fine_tuning
from pytest_llmbench.schema.case import Case, LoraTargets
from pytest_llmbench.schema.workload import Workload

bitsandbytes = pytest.importorskip("bitsandbytes")

SMOKE = Workload(scale="smoke", device="cpu", samples=4)
LAYERS = {"bnb-nf4": "Linear4bit", "bnb-int8": "Linear8bitLt"}

both = pytest.mark.parametrize("quantization", LAYERS)
everywhere = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.hardware, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
        ),
    ],
)


def _case(quantization: Any, targets: LoraTargets = "all") -> Case:
    return Case(
        model="qwen-7b-chat", quantization=quantization, attention="sdpa", lora_targets=targets, accumulation_steps=2
    )


def _small(quantization: Any, device: str = "cpu") -> Any:
    return build_model(_case(quantization), SMOKE, device)


def _training(quantization: Any, targets: LoraTargets = "all", device: str = "cpu") -> FineTuning:
    return build_fine_tuning(_case(quantization, targets), SMOKE, torch.device(device))


@both
def test_every_linear_layer_but_the_head_is_quantized(quantization: str) -> None:
    model = _small(quantization)
    layers = {name: type(module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}

    assert layers.pop("lm_head") is torch.nn.Linear
    assert len(layers) == 10
    assert set(layers.values()) == {getattr(bitsandbytes.nn, LAYERS[quantization])}


def test_nf4_is_quantized_twice_and_computes_in_bf16() -> None:
    layer = _small("bnb-nf4").transformer.h[0].mlp.w1
    state = layer.weight.quant_state

    assert (state.quant_type, state.nested, state.blocksize) == ("nf4", True, 64)
    assert layer.weight.dtype == torch.uint8
    assert layer.compute_dtype == torch.bfloat16


def test_int8_has_outliers_and_no_16_bit_weights() -> None:
    layer = _small("bnb-int8").transformer.h[0].mlp.w1

    assert (layer.state.threshold, layer.state.has_fp16_weights) == (6.0, False)
    assert layer.weight.dtype == torch.int8


@both
@everywhere
def test_quantized_layers_compute_about_what_the_drawn_weights_do(quantization: str, device: str) -> None:
    inputs = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)).to(device, torch.bfloat16)
    exact, quantized = (_small(name, device).transformer.h[0].attn.c_attn for name in ("bf16", quantization))
    with torch.no_grad():
        expected, got = exact(inputs), quantized(inputs)

    assert got.dtype == torch.bfloat16
    assert (got - expected).norm() < {"bnb-nf4": 0.15, "bnb-int8": 0.02}[quantization] * expected.norm()


@both
def test_weights_are_the_same_every_time(quantization: str) -> None:
    one, other = (_small(quantization).transformer.h[1].mlp.w2.weight for _ in range(2))

    assert torch.equal(one.data, other.data)


@both
def test_what_is_not_quantized_is_bf16(quantization: str) -> None:
    model = _small(quantization)

    assert {p.dtype for name, p in model.named_parameters() if "weight" not in name or "ln_" in name} == {
        torch.bfloat16
    }
    assert (model.transformer.wte.weight.dtype, model.lm_head.weight.dtype) == (torch.bfloat16, torch.bfloat16)


@both
@pytest.mark.parametrize("targets", ["default", "all"])
def test_peft_adapts_them_by_its_own_layers(quantization: str, targets: LoraTargets) -> None:
    adapted = [module for module in _training(quantization, targets).model.modules() if hasattr(module, "lora_A")]

    assert len(adapted) == {"default": 2, "all": 10}[targets]
    assert {f"{type(module).__module__}.{type(module).__name__}" for module in adapted} == {
        f"peft.tuners.lora.bnb.{LAYERS[quantization]}"
    }


@both
def test_parameters_are_counted_as_before_quantization(quantization: str) -> None:
    training, unquantized = _training(quantization), _training("bf16")

    assert count_parameters(training.model) == count_parameters(unquantized.model)


@both
def test_the_full_size_is_the_published_one(quantization: str) -> None:
    case = _case(quantization, "default")
    model = attach(build_model(case, Workload(device="cpu"), "meta"), case, architecture_of(case.model, "full"))

    assert count_parameters(model) == (4_194_304, 7_721_324_544 + 4_194_304)


@both
def test_the_layer_that_ran_is_recorded(quantization: str) -> None:
    parts = describe_parts(_training(quantization))

    assert parts["linear"] == f"bitsandbytes.{LAYERS[quantization]}"
    assert parts["trained_dtype"] == "bfloat16"


@both
@everywhere
@pytest.mark.parametrize("targets", ["default", "all"])
def test_an_optimizer_step_moves_adapters_and_nothing_else(
    quantization: str, device: str, targets: LoraTargets
) -> None:
    training = _training(quantization, targets, device)
    before = {name: parameter.detach().clone() for name, parameter in training.model.named_parameters()}
    losses = []
    # Two optimizer steps: in the first the learning rate is zero, and A has no gradient while B is zero.
    for index in range(4):
        losses.append(training.micro_step(index).loss)
        if index % 2:
            assert torch.isfinite(training.optimizer_step())
    moved = {name for name, parameter in training.model.named_parameters() if not torch.equal(before[name], parameter)}

    assert all(torch.isfinite(loss) for loss in losses if loss is not None)
    assert moved == {name for name in before if "lora_B" in name}


@both
def test_checkpointing_changes_no_gradient(quantization: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        case = Case(
            model="qwen-7b-chat",
            quantization=quantization,
            attention="sdpa",
            lora_targets="all",
            gradient_checkpointing=checkpointing,
        )
        training = build_fine_tuning(case, SMOKE, torch.device("cpu"))
        torch.manual_seed(1)  # for dropout
        training.micro_step(0)
        gradients.append({name: p.grad for name, p in training.model.named_parameters() if p.grad is not None})

    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("quantization", "bytes_per_weight"), [("bnb-nf4", 0.52), ("bnb-int8", 1.01)])
def test_a_quantized_model_takes_the_room_of_its_codes(quantization: Any, bytes_per_weight: float) -> None:
    gc.collect()  # models of earlier tests
    before = torch.cuda.memory_allocated()
    case = Case(model="qwen-1_8b-chat", quantization=quantization, attention="sdpa")
    model = build_model(case, Workload(), "cuda")
    total = count_parameters(model)[1]
    in_16_bits = 2 * 151_936 * 2048  # embeddings and head

    assert torch.cuda.memory_allocated() - before == pytest.approx(
        2 * in_16_bits + bytes_per_weight * (total - in_16_bits), rel=0.02
    )
