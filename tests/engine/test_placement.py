"""Layers split over several devices: where each part goes, and that a training step runs across them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from pytest_llmbench.engine.adapters import attach
from pytest_llmbench.engine.batches import make_batches
from pytest_llmbench.engine.models import architecture_of, build_model, enable_checkpointing
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.engine.placement import (
    DoesNotFit,
    Placement,
    balanced,
    describe,
    device_of,
    place,
)
from pytest_llmbench.engine.provenance import describe_parts
from pytest_llmbench.engine.training import build_fine_tuning
from pytest_llmbench.schema.case import MODELS, Case
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions

FULL = Workload(scale="full", device="cpu")
SMOKE = Workload(scale="smoke", device="cpu", samples=16)
A100 = 79 * 2**30
QWEN_72B = Case(model="qwen-72b-chat", attention="sdpa")


def gpus(count: int) -> list[Any]:
    return [torch.device("cuda", index) for index in range(count)]


def split(case: Case, workload: Workload, devices: Sequence[Any], memory: int = A100) -> Placement:
    model = build_model(case, workload, "meta")
    return balanced(model, devices, [memory] * len(devices), torch.bfloat16, case.quantization)


def layers_on(placement: Placement, count: int) -> list[Any]:
    return [device_of(f"transformer.h.{index}.attn.c_attn.weight", placement) for index in range(count)]


def onto_meta(case: Case) -> Placement:
    """
    The CPU, then torch's device without memory, which computes shapes and refuses tensors of the CPU.

    Nothing comes back from there, and so the rotary embedding, last in most models, is on the CPU.
    """
    found = split(case, SMOKE, [torch.device("cpu"), torch.device("meta")])
    return {name: torch.device("cpu") if "rotary" in name else device for name, device in found.items()}


def build_on(case: Case, placement: Placement) -> Any:
    """The miniature with its tensors where they go."""
    model: Any = build_model(case, SMOKE, "cpu")
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            moved = parameter.detach().to(device_of(f"{prefix}.{name}", placement))
            setattr(module, name, nn.Parameter(moved, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device_of(f"{prefix}.{name}", placement)))
    return model


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_layer_of_the_largest_model_is_on_a_gpu_in_their_order(count: int) -> None:
    placement = split(QWEN_72B, FULL, gpus(count))

    indices = [device.index for device in layers_on(placement, 80)]
    assert indices == sorted(indices)
    assert set(indices) == set(range(count))
    assert {device.type for device in placement.values()} == {"cuda"}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_no_layer_is_cut_in_two(count: int) -> None:
    names = split(QWEN_72B, FULL, gpus(count))

    assert max(name.count(".") for name in names) == 2  # transformer.h.0


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_embedding_is_on_the_first_gpu_and_the_head_on_the_last(count: int) -> None:
    placement = split(QWEN_72B, FULL, gpus(count))

    assert device_of("transformer.wte.weight", placement).index == 0
    assert device_of("transformer.ln_f.weight", placement).index == count - 1
    assert device_of("lm_head.weight", placement).index == count - 1


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_gpus_hold_about_as_many_weights_each(count: int) -> None:
    placement = split(QWEN_72B, FULL, gpus(count))
    held = dict.fromkeys(gpus(count), 0)
    for name, parameter in build_model(QWEN_72B, FULL, "meta").named_parameters():
        held[device_of(name, placement)] += parameter.numel()

    assert max(held.values()) < 1.1 * min(held.values())


def test_one_gpu_with_room_holds_everything() -> None:
    assert set(split(QWEN_72B, FULL, gpus(1), memory=160 * 2**30).values()) == set(gpus(1))


@pytest.mark.parametrize(("count", "memory"), [(1, A100), (2, 40 * 2**30), (4, 20 * 2**30)])
def test_weights_that_do_not_fit_are_out_of_memory_and_not_offloaded(count: int, memory: int) -> None:
    with pytest.raises(DoesNotFit, match=rf"do not fit on {count} GPU.* left to the CPU or the disk") as caught:
        split(QWEN_72B, FULL, gpus(count), memory)

    assert isinstance(caught.value, torch.cuda.OutOfMemoryError)


def test_quantized_weights_are_counted_as_they_are_stored() -> None:
    pytest.importorskip("bitsandbytes")
    case = Case(model="qwen-72b-chat", attention="sdpa", quantization="bnb-nf4")

    assert set(layers_on(split(case, FULL, gpus(2), memory=30 * 2**30), 80)) == set(gpus(2))


def test_a_model_that_does_not_tell_its_layers_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="Linear has no _no_split_modules"):
        balanced(nn.Linear(2, 2), gpus(2), [A100, A100], torch.bfloat16)


def test_a_model_of_too_few_layers_is_unavailable_and_leaves_no_gpu_idle() -> None:
    with pytest.raises(Unavailable, match=r"fill only \d of 8 GPUs"):
        split(Case(model="yi-6b-chat", attention="sdpa"), SMOKE, gpus(8))


@pytest.mark.parametrize("name", MODELS)
def test_a_split_model_runs_across_two_devices(name: str) -> None:
    case = Case(model=name, attention="eager", gradient_checkpointing=False)
    placement = onto_meta(case)
    model = build_on(case, placement)
    model._skip_keys_device_placement = ["loss", "logits"]
    place(model, placement)
    batch, *_ = make_batches([20, 33, 7], 3, model.config.vocab_size, "cpu", seed=0)

    output = model(**batch.inputs())

    assert describe(model) == "cpu layer 0, meta layer 1"
    assert output.logits.device == output.loss.device == torch.device("meta")


def test_adapters_are_where_the_layers_under_them_are() -> None:
    case = Case(model="qwen-7b-chat", attention="sdpa")
    placement = onto_meta(case)
    model = build_on(case, placement)
    place(model, placement)

    adapted = attach(model, case, architecture_of(case.model, "smoke"))

    devices = {name: str(weight.device) for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {device for name, device in devices.items() if ".h.0." in name} == {"cpu"}
    assert {device for name, device in devices.items() if ".h.1." in name} == {"meta"}


def test_without_hooks_a_split_model_does_not_run() -> None:
    case = Case(model="yi-6b-chat", attention="eager", gradient_checkpointing=False)
    model = build_on(case, onto_meta(case))
    batch, *_ = make_batches([20], 1, model.config.vocab_size, "cpu", seed=0)

    with pytest.raises(RuntimeError, match="meta"):
        model(**batch.inputs())


@pytest.mark.parametrize("name", MODELS)
def test_the_hooks_between_devices_change_no_loss_and_no_gradient(name: str) -> None:
    case = Case(model=name, attention="sdpa")
    architecture = architecture_of(name, "smoke")
    placement = {part: torch.device("cpu") for part in split(case, SMOKE, gpus(2))}
    batch, *_ = make_batches([20, 33, 7], 3, architecture.vocab_size, "cpu", seed=0)

    def step(*, hooked: bool) -> list[Any]:
        model = build_model(case, SMOKE, "cpu")
        if hooked:
            place(model, placement)
        torch.manual_seed(0)
        model = attach(model, case, architecture)
        enable_checkpointing(model)
        loss = model(**batch.inputs()).loss
        loss.backward()
        return [loss.detach(), *(weight.grad for weight in model.parameters() if weight.requires_grad)]

    for expected, found in zip(step(hooked=False), step(hooked=True), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_every_part_of_a_split_model_has_its_hook() -> None:
    case = Case(model="yi-6b-chat", attention="sdpa")
    model = build_model(case, SMOKE, "cpu")
    place(model, {part: torch.device("cpu") for part in split(case, SMOKE, gpus(2))})

    assert all(
        hasattr(module, "_hf_hook") for module in model.modules() if dict(module.named_parameters(recurse=False))
    )
    assert set(model.hf_device_map) == set(split(case, SMOKE, gpus(2)))


def test_a_row_for_two_gpus_runs_whole_on_the_cpu() -> None:
    training = build_fine_tuning(Case(model="qwen-72b-chat", attention="sdpa", num_gpus=2), SMOKE, torch.device("cpu"))

    assert getattr(training.model, "hf_device_map", None) is None
    assert "placement" not in describe_parts(training)


@pytest.mark.hardware
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 GPUs")
@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_a_training_step_runs_over_two_gpus(tuner: str) -> None:
    workload = Workload(scale="smoke", device="cuda", samples=16)
    case = Case(model="qwen-7b-chat", tuner=tuner, attention="sdpa", num_gpus=2)  # type: ignore[arg-type]
    training = build_fine_tuning(case, workload, torch.device("cuda", 0))

    losses = [training.micro_step(index).loss for index in range(2)]
    norm = training.optimizer_step()

    assert describe_parts(training)["placement"] == "cuda:0 layer 0, cuda:1 layer 1"
    assert all(loss is not None and torch.isfinite(loss) for loss in losses)
    assert torch.isfinite(norm)
    by_layer = {name: weight.device.index for name, weight in training.model.named_parameters() if weight.requires_grad}
    assert {index for name, index in by_layer.items() if ".h.0." in name} == {0}
    assert {index for name, index in by_layer.items() if ".h.1." in name} == {1}
