"""Which attention is asked for, whether it can run, and which one ran."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytest_llmbench.engine.attention import (
    AttentionUnavailable,
    check_available,
    effective_attention,
    implementation,
    is_fallback,
    observed_attention,
    pin_kernel,
)
from pytest_llmbench.engine.batches import make_batches
from pytest_llmbench.engine.models import build_model, enable_checkpointing
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "scale", "device", "expected"),
    [
        ("flash", "smoke", "cpu", "sdpa"),
        ("flash3", "smoke", "cpu", "sdpa"),
        ("flash4", "smoke", "cpu", "sdpa"),
        ("xformers", "smoke", "cpu", "sdpa"),
        ("sdpa-cudnn", "smoke", "cpu", "sdpa"),
        ("sdpa-efficient", "smoke", "cpu", "sdpa"),
        ("sdpa-flash", "smoke", "cpu", "sdpa-flash"),
        ("sdpa-math", "smoke", "cpu", "sdpa-math"),
        ("sdpa", "smoke", "cpu", "sdpa"),
        ("eager", "smoke", "cpu", "eager"),
        ("flash", "smoke", "cuda", "flash"),
        ("flash", "full", "cuda", "flash"),
        ("flash", "full", "cpu", "flash"),
    ],
)
def test_only_miniatures_on_the_cpu_run_another_attention(asked: Any, scale: Any, device: Any, expected: str) -> None:
    case = Case(model="qwen-7b-chat", attention=asked)

    assert effective_attention(case, Workload(scale=scale, device=device)) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("flash", "flash_attention_2"),
        ("flash3", "flash_attention_3"),
        ("flash4", "flash_attention_4"),
        ("sdpa", "sdpa"),
        ("sdpa-math", "sdpa"),
        ("eager", "eager"),
        ("xformers", "xformers"),
    ],
)
def test_transformers_has_its_own_names(asked: Any, expected: str) -> None:
    assert implementation(asked) == expected


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("flash", "flash-attn"),
        ("flash3", "flash-attn-3"),
        ("flash4", "flash-attn-4"),
        ("sdpa-cudnn", "attention sdpa-cudnn"),
        ("sdpa-efficient", "attention sdpa-efficient"),
        ("xformers", "attention xformers"),
    ],
)
def test_what_has_no_cpu_kernels_needs_a_cuda_device(asked: Any, name: str) -> None:
    with pytest.raises(AttentionUnavailable) as caught:
        check_available(asked, CPU)

    assert str(caught.value) == f"{name} needs a CUDA device and this is 'cpu'; use attention='sdpa'"


def test_a_missing_flash_attn_is_named_with_its_cure() -> None:
    if find_spec("flash_attn") is not None:
        pytest.skip("flash-attn is installed")

    with pytest.raises(AttentionUnavailable, match=r"not installed: pip install 'pytest-llmbench\[flash\]'"):
        check_available("flash", CUDA)


def test_a_broken_flash_attn_is_named_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: abi')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)

    with pytest.raises(AttentionUnavailable, match="installed and does not load: undefined symbol: abi"):
        check_available("flash", CUDA)


def _known_to_transformers(asked: Any) -> bool:
    return implementation(asked) in transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS


@pytest.mark.parametrize(
    ("asked", "module", "message"),
    [
        ("flash3", "flash_attn_interface", "flash-attn-3 is not installed: build it from flash-attn's folder `hopper`"),
        ("flash4", "flash_attn", "flash-attn-4 is not installed: pip install flash-attn-4"),
    ],
)
def test_a_missing_newer_flash_attn_is_named_with_its_cure(asked: Any, module: str, message: str) -> None:
    if find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    if not _known_to_transformers(asked):
        pytest.skip("this transformers does not know it")

    with pytest.raises(AttentionUnavailable) as caught:
        check_available(asked, CUDA)

    assert str(caught.value) == message


@pytest.mark.parametrize("asked", ["flash3", "flash4"])
def test_a_transformers_without_a_newer_flash_attn_is_named(asked: Any) -> None:
    if _known_to_transformers(asked):
        pytest.skip("this transformers knows it")

    with pytest.raises(AttentionUnavailable, match=rf"^transformers {transformers.__version__} does not know flash-at"):
        check_available(asked, CUDA)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "sdpa-flash", "sdpa-math"])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_sdpa_and_eager_run_everywhere(attention: Any, device: Any) -> None:
    check_available(attention, device)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4> >"], "flash-attn"),
        (["void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>"], "flash-attn"),
        (["flash_attn::_flash_attn_forward"], "flash-attn"),
        (["void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<...>>>"], "flash-attn-3"),
        (["flash_attn_3::fwd"], "flash-attn-3"),
        (["kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at_"], "flash-attn-4"),
        (["void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<128>>"], "sdpa-flash"),
        (["aten::_scaled_dot_product_flash_attention_for_cpu"], "sdpa-flash"),
        (["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7"], "sdpa-cudnn"),
        (["aten::_scaled_dot_product_cudnn_attention_backward"], "sdpa-cudnn"),
        (["fmha_cutlassF_bf16_aligned_64x128_rf_sm80"], "sdpa-efficient"),
        (["aten::_scaled_dot_product_efficient_attention"], "sdpa-efficient"),
        (["aten::_scaled_dot_product_attention_math", "aten::_softmax"], "sdpa-math"),
        (["xformers::efficient_attention_forward_cutlass", "fmha_cutlassF_bf16_aligned"], "xformers"),
        (["xformers_flash::flash_fwd", "void pytorch_flash::flash_fwd_kernel<...>"], "xformers"),
        (["xformers_flash::flash_fwd", "void flash::flash_fwd_kernel<...>"], "xformers"),
        (["aten::matmul", "aten::_softmax", "aten::_log_softmax"], "eager"),
        (["aten::mm", "aten::_log_softmax", "void (anonymous namespace)::softmax_warp_forward<...>"], None),
        ([], None),
    ],
)
def test_the_attention_is_known_by_its_kernels(names: list[str], expected: str | None) -> None:
    assert observed_attention(names) == expected


def test_a_fallback_in_a_part_of_the_layers_is_not_hidden() -> None:
    names = ["aten::_scaled_dot_product_cudnn_attention", "aten::_scaled_dot_product_attention_math"]

    assert observed_attention(names) == "sdpa-math"


@pytest.mark.parametrize(
    ("requested", "observed", "expected"),
    [
        ("flash", "flash-attn", False),
        ("flash", "sdpa-flash", True),
        ("sdpa", "sdpa-cudnn", False),
        ("sdpa", "sdpa-efficient", False),
        ("sdpa", "sdpa-flash", False),
        ("sdpa", "sdpa-math", True),
        ("sdpa", "eager", True),
        ("eager", "eager", False),
        ("eager", "sdpa-math", True),
        ("xformers", "xformers", False),
        ("xformers", "sdpa-efficient", True),
        ("flash", "flash-attn-3", True),
        ("flash3", "flash-attn-3", False),
        ("flash3", "flash-attn", True),
        ("flash4", "flash-attn-4", False),
        ("sdpa-flash", "sdpa-flash", False),
        ("sdpa-flash", "sdpa-efficient", True),
        ("sdpa-math", "sdpa-math", False),
        ("flash", None, False),
    ],
)
def test_a_fallback_is_anything_else_than_what_was_asked_for(requested: Any, observed: Any, expected: bool) -> None:
    assert is_fallback(requested, observed) is expected


def _built(attention: Any, model: str = "qwen-7b-chat") -> Any:
    case = Case(model=model, attention=attention)
    return build_model(case, Workload(scale="smoke", device="cpu"), "cpu").train()


def _profiled(model: Any, lengths: list[int]) -> set[str]:
    (batch,) = make_batches(lengths, len(lengths), 512, "cpu", seed=1)
    with torch.profiler.profile() as profile:
        model(**batch.inputs()).loss.backward()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("lengths", [[32], [32, 20]], ids=["unpadded", "padded"])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [("sdpa", "sdpa-flash"), ("sdpa-flash", "sdpa-flash"), ("sdpa-math", "sdpa-math"), ("eager", "eager")],
)
@pytest.mark.parametrize("model", ["qwen-7b-chat", "yi-6b-chat", "openbuddy-zephyr-7b-chat"])
def test_a_real_step_runs_the_attention_asked_for(model: str, asked: Any, expected: str, lengths: list[int]) -> None:
    assert observed_attention(_profiled(_built(asked, model), lengths)) == expected


@pytest.mark.parametrize("model", ["qwen-7b-chat", "yi-6b-chat"])
def test_a_recomputed_layer_finds_the_same_kernel(model: str) -> None:
    built = _built("sdpa-math", model)
    enable_checkpointing(built)

    names = _profiled(built, [32])

    assert observed_attention(names) == "sdpa-math"
    assert not [name for name in names if "flash_attention" in name]


def test_outside_a_pinned_model_torch_chooses_again() -> None:
    _profiled(_built("sdpa-math"), [32])

    assert observed_attention(_profiled(_built("sdpa"), [32])) == "sdpa-flash"


def test_a_kernel_that_cannot_take_the_attention_is_unavailable() -> None:
    model = _built("sdpa")
    pin_kernel(model, "sdpa-efficient")  # which the CPU does not have

    with pytest.raises(AttentionUnavailable, match=r"^torch has no efficient kernel for this attention here"):
        model(torch.arange(1, 9).unsqueeze(0))


def test_other_errors_of_a_pinned_model_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="must match"):
        _built("sdpa-math")(inputs_embeds=torch.zeros(1, 8, 63, dtype=torch.bfloat16))


def test_a_real_fallback_to_the_math_kernel_is_seen() -> None:
    with sdpa_kernel(SDPBackend.MATH):
        observed = observed_attention(_profiled(_built("sdpa"), [32]))

    assert observed == "sdpa-math"
    assert is_fallback("sdpa", observed)
