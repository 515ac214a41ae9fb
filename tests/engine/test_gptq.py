"""GPTQ: the arithmetic of packing everywhere, and real layers where gptqmodel or auto-gptq is installed."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import import_utils
from torch import nn

from pytest_llmbench.engine.adapters import attach, count_parameters
from pytest_llmbench.engine.models import architecture_of, build_model
from pytest_llmbench.engine.provenance import describe_parts
from pytest_llmbench.engine.quantization import QuantizationUnavailable, quantizer
from pytest_llmbench.engine.quantization.gptq import Gptq
from pytest_llmbench.engine.quantization.packing import pack, repeated
from pytest_llmbench.engine.training import FineTuning, build_fine_tuning
from pytest_llmbench.schema.case import Case, LoraTargets
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions

SMOKE = Workload(scale="smoke", device="cpu", samples=4)
CLASSES = {"gptqmodel": "TorchLinear", "auto_gptq": "QuantLinear"}
BITS: Any = {"gptq-int4": 4, "gptq-int8": 8}


def _installed() -> str | None:
    """The library that is installed and that this peft trains over."""
    for library in CLASSES:
        is_available = getattr(import_utils, f"is_{library}_available", None)
        if is_available is not None and is_available():
            return library
    return None


LIBRARY = _installed()

both = pytest.mark.parametrize("quantization", BITS)
real = pytest.mark.skipif(LIBRARY is None, reason="neither gptqmodel nor auto-gptq is installed for this peft")
gpu = [pytest.mark.hardware, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
everywhere = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])


def _drawn(outputs: int = 64, inputs: int = 256, dtype: Any = torch.float32) -> Any:
    return (0.02 * torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1))).to(dtype)


def _codes(words: Any, bits: int) -> Any:
    """[inputs, outputs], from words [inputs * bits / 32, outputs]."""
    lanes = [(words.to(torch.int64) >> shift) & (2**bits - 1) for shift in range(0, 32, bits)]
    return torch.stack(lanes, dim=1).flatten(0, 1)


def _unpacked(packed: Any, bits: int, group_size: int) -> Any:
    scales = packed.scales.float().repeat_interleave(group_size, dim=0)
    return (scales * (_codes(packed.codes, bits) - 2 ** (bits - 1))).t()


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_have_the_shapes_of_the_format(bits: int) -> None:
    packed = pack(_drawn(64, 256, torch.bfloat16), bits, 128)

    assert (packed.codes.shape, packed.codes.dtype) == ((256 * bits // 32, 64), torch.int32)
    assert (packed.scales.shape, packed.scales.dtype) == ((2, 64), torch.bfloat16)
    assert packed.codes.is_contiguous()
    assert packed.scales.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_unpacking_gives_the_weights_back_within_half_a_step(bits: int, dtype: Any) -> None:
    weight = _drawn(dtype=dtype)
    packed = pack(weight, bits, 128)
    step = packed.scales.float().t().repeat_interleave(128, dim=1)

    # A scale that was rounded to bf16 stretches a large weight by up to a 256th.
    slack = 0.5 + (0 if dtype == torch.float32 else 2**bits / 512) + 1e-3
    assert ((_unpacked(packed, bits, 128) - weight.float()).abs() <= slack * step).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_unpacked_weights_spread_as_the_drawn_ones_do(bits: int) -> None:
    assert _unpacked(pack(_drawn(), bits, 128), bits, 128).std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("bits", [4, 8])
def test_each_group_has_a_scale_of_its_own(bits: int) -> None:
    weight = torch.ones(32, 256)
    weight[:, 128:] = 3

    scales = pack(weight, bits, 128).scales

    assert scales[0].tolist() == pytest.approx([2 / (2**bits - 1)] * 32)
    assert scales[1].tolist() == pytest.approx([6 / (2**bits - 1)] * 32)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_has_the_middle_code_and_the_largest_weight_the_last(bits: int) -> None:
    weight = torch.zeros(32, 32)
    weight[:, 1] = 1

    codes = _codes(pack(weight, bits, 32).codes, bits)

    assert codes[:2, 0].tolist() == [2 ** (bits - 1), 2**bits - 1]


@pytest.mark.parametrize("bits", [4, 8])
def test_the_first_input_has_the_lowest_bits_of_a_word(bits: int) -> None:
    weight = torch.zeros(32, 32)
    weight[:, 0] = 1

    assert pack(weight, bits, 32).codes[0, 0].item() & (2**bits - 1) == 2**bits - 1


def test_weights_that_are_all_zero_have_valid_codes() -> None:
    packed = pack(torch.zeros(32, 32), 4, 32)

    assert (_unpacked(packed, 4, 32) == 0).all()
    assert torch.isfinite(packed.scales).all()


def test_packing_leaves_the_weights_as_they_are() -> None:
    weight = _drawn()
    before = weight.clone()

    pack(weight, 4, 128)

    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("code", "bits", "expected"), [(8, 4, 0x88888888), (7, 4, 0x77777777), (128, 8, 0x80808080), (127, 8, 0x7F7F7F7F)]
)
def test_a_word_of_one_code_repeated(code: int, bits: int, expected: int) -> None:
    assert repeated(code, bits) & 0xFFFFFFFF == expected
    assert torch.tensor(repeated(code, bits), dtype=torch.int32).item() == repeated(code, bits)


@both
def test_without_a_library_the_cases_are_unavailable(monkeypatch: pytest.MonkeyPatch, quantization: Any) -> None:
    for library in CLASSES:
        if hasattr(import_utils, f"is_{library}_available"):
            monkeypatch.setattr(import_utils, f"is_{library}_available", lambda: False)

    with pytest.raises(QuantizationUnavailable, match=r"^(gptqmodel|auto-gptq) is not installed.*: pip install '?\w"):
        quantizer(quantization)


def test_a_version_that_peft_refuses_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise ImportError("gptqmodel requires optimum version `1.24.0` or higher to be installed.")

    monkeypatch.setattr(import_utils, "is_gptqmodel_available", refuse, raising=False)

    with pytest.raises(QuantizationUnavailable, match=r"^peft refuses gptqmodel: gptqmodel requires optimum"):
        quantizer("gptq-int4")


def _case(quantization: Any, targets: LoraTargets = "all") -> Case:
    return Case(
        model="qwen-7b-chat", quantization=quantization, attention="sdpa", lora_targets=targets, accumulation_steps=2
    )


def _small(quantization: Any, device: str = "cpu") -> Any:
    return build_model(_case(quantization), SMOKE, device)


def _training(quantization: Any, targets: LoraTargets = "all", device: str = "cpu") -> FineTuning:
    return build_fine_tuning(_case(quantization, targets), SMOKE, torch.device(device))


@real
@both
def test_every_linear_layer_but_the_head_is_quantized(quantization: Any) -> None:
    model = _small(quantization)
    layers = [module for module in model.modules() if hasattr(module, "qweight")]

    assert len(layers) == 10
    assert {type(layer).__name__ for layer in layers} == {CLASSES[str(LIBRARY)]}
    assert [name for name, module in model.named_modules() if isinstance(module, nn.Linear)] == ["lm_head"]


@real
@both
@everywhere
def test_the_library_reads_the_packed_weights_as_they_were_drawn(quantization: Any, device: str) -> None:
    layer = _small(quantization, device).transformer.h[0].attn.c_attn
    drawn = _small("bf16", device).transformer.h[0].attn.c_attn
    with torch.no_grad():
        layer.bias.fill_(0.5)
        got = layer(torch.eye(64, device=device, dtype=torch.bfloat16)) - 0.5
    step = 2 * drawn.weight.abs().max() / (2 ** BITS[quantization] - 1)

    assert got.dtype == torch.bfloat16
    # bf16 has steps of 1 / 256 around the bias.
    torch.testing.assert_close(got, drawn.weight.t(), rtol=0, atol=0.6 * step.item() + 1 / 256)


@real
@both
def test_the_miniature_is_one_group_and_the_full_size_has_groups_of_128(quantization: Any) -> None:
    mlp = _small(quantization).transformer.h[0].mlp

    assert (mlp.w1.group_size, mlp.c_proj.group_size) == (64, 128)


@real
@pytest.mark.parametrize(("inputs", "outputs"), [(192, 128), (128, 40), (40, 128)])
def test_a_layer_that_does_not_fit_into_groups_and_words_is_unavailable(inputs: int, outputs: int) -> None:
    model: Any = nn.ModuleDict({"wide": nn.Linear(inputs, outputs, device="meta")})
    model.get_output_embeddings = lambda: None

    with pytest.raises(QuantizationUnavailable, match=f"^layer wide has {inputs} inputs and {outputs} outputs; GPTQ"):
        quantizer("gptq-int4").prepare(model)


@real
@both
@pytest.mark.parametrize("targets", ["default", "all"])
def test_peft_adapts_them_by_its_own_layers(quantization: Any, targets: LoraTargets) -> None:
    adapted = [module for module in _training(quantization, targets).model.modules() if hasattr(module, "lora_A")]

    assert len(adapted) == {"default": 2, "all": 10}[targets]
    assert {type(module).__module__ for module in adapted} == {"peft.tuners.lora.gptq"}


@real
@both
def test_parameters_are_counted_as_before_quantization(quantization: Any) -> None:
    training, unquantized = _training(quantization), _training("bf16")

    assert count_parameters(training.model) == count_parameters(unquantized.model)


@real
@both
def test_the_full_size_is_the_published_one(quantization: Any) -> None:
    case = _case(quantization, "default")
    model = attach(build_model(case, Workload(device="cpu"), "meta"), case, architecture_of(case.model, "full"))

    assert count_parameters(model) == (4_194_304, 7_721_324_544 + 4_194_304)


@real
@both
def test_the_layer_that_ran_is_recorded(quantization: Any) -> None:
    parts = describe_parts(_training(quantization))

    assert parts["linear"] == f"{LIBRARY}.{CLASSES[str(LIBRARY)]}"
    assert (parts["trained_dtype"], parts["frozen_dtype"]) == ("bfloat16", "bfloat16")


@real
@both
@everywhere
@pytest.mark.parametrize("targets", ["default", "all"])
def test_an_optimizer_step_moves_adapters_and_nothing_else(
    quantization: Any, device: str, targets: LoraTargets
) -> None:
    training = _training(quantization, targets, device)
    state = training.model.state_dict()
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    losses = []
    # Two optimizer steps: in the first the learning rate is zero, and A has no gradient while B is zero.
    for index in range(4):
        losses.append(training.micro_step(index).loss)
        if index % 2:
            assert torch.isfinite(training.optimizer_step())
    moved = {name for name, tensor in training.model.state_dict().items() if not torch.equal(before[name], tensor)}

    assert all(torch.isfinite(loss) for loss in losses if loss is not None)
    assert moved == {name for name in before if "lora_B" in name}


_CHILD = """
import json, os, sys, torch
device, quantization, path = sys.argv[1:]
before = dict(os.environ)
if quantization:
    from pytest_llmbench.schema.case import Case
    from pytest_llmbench.engine.training import build_fine_tuning
    from pytest_llmbench.schema.workload import Workload

    case = Case(model="qwen-7b-chat", quantization=quantization, attention="sdpa")
    build_fine_tuning(case, Workload(scale="smoke", device="cpu", samples=4), torch.device(device))
else:
    torch.empty(1, device=device)
done = {
    "changed": sorted(dict(before.items() ^ os.environ.items())),
    "imported": [name for name in ("gptqmodel", "auto_gptq") if name in sys.modules],
    "allocator": torch.cuda.memory._snapshot()["allocator_settings"] if device == "cuda" else None,
}
with open(path, "w") as file:
    json.dump(done, file)
"""


def _in_new_process(path: Path, device: str, quantization: str) -> dict[str, Any]:
    """Build a training there, or without a quantization only allocate: what that did to the process."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTORCH_", "CUDA_DEVICE_"))}
    command = [sys.executable, "-c", _CHILD, device, quantization, str(path / "done.json")]
    subprocess.run(command, env=environ, check=True, timeout=300)
    return json.loads((path / "done.json").read_text())  # type: ignore[no-any-return]


@real
@both
def test_importing_the_library_leaves_the_environment_as_it_is(tmp_path: Path, quantization: str) -> None:
    done = _in_new_process(tmp_path, "cpu", quantization)

    assert done["imported"] == [LIBRARY]
    assert done["changed"] == []


@real
def test_cases_without_gptq_keep_the_environment_too(tmp_path: Path) -> None:
    assert _in_new_process(tmp_path, "cpu", "bf16")["changed"] == []


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@real
@pytest.mark.parametrize("quantization", ["gptq-int4", "bf16"])
def test_the_allocator_is_that_of_a_process_without_the_library(tmp_path: Path, quantization: str) -> None:
    built, plain = (_in_new_process(tmp_path, "cuda", name) for name in (quantization, ""))

    assert (built["changed"], plain["imported"]) == ([], [])
    assert built["allocator"] == plain["allocator"]


@real
@both
def test_weights_are_given_up_as_soon_as_they_are_packed(monkeypatch: pytest.MonkeyPatch, quantization: Any) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def store(self: Gptq, module: nn.Module) -> None:
        nonlocal most
        if isinstance(module, nn.Linear):
            alive.append(weakref.ref(module.weight))
        real_store(self, module)
        most = max(most, sum(reference() is not None for reference in alive))

    real_store = Gptq.store
    monkeypatch.setattr(Gptq, "store", store)
    build_model(Case(model="qwen-7b-chat", quantization=quantization, attention="sdpa"), SMOKE, "cpu")

    assert len(alive) > 8
    assert most <= 2  # that of the layer at hand, and the head's


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@real
@both
def test_a_quantized_model_takes_the_room_of_its_codes(quantization: Any) -> None:
    gc.collect()  # models of earlier tests
    before = torch.cuda.memory_allocated()
    case = Case(model="qwen-1_8b-chat", quantization=quantization, attention="sdpa")
    model = build_model(case, Workload(), "cuda")
    in_16_bits = 2 * 151_936 * 2048  # embeddings and head
    packed = count_parameters(model)[1] - in_16_bits
    bytes_per_weight = (BITS[quantization] + (16 + BITS[quantization]) / 128) / 8  # with a scale and a zero a group

    assert torch.cuda.memory_allocated() - before == pytest.approx(2 * in_16_bits + bytes_per_weight * packed, rel=0.02)
