"""Which attention is asked for, whether it can run, and which one ran."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from pytest_llmbench.cases import Case  # noqa: E402
from pytest_llmbench.engine.attention import (  # noqa: E402
    AttentionUnavailable,
    check_available,
    effective_attention,
    implementation,
    is_fallback,
    observed_attention,
)
from pytest_llmbench.engine.batches import make_batches  # noqa: E402
from pytest_llmbench.engine.models import build_model  # noqa: E402
from pytest_llmbench.workload import Workload  # noqa: E402

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "scale", "device", "expected"),
    [
        ("flash", "smoke", "cpu", "sdpa"),
        ("xformers", "smoke", "cpu", "sdpa"),
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


@pytest.mark.parametrize(("asked", "expected"), [("flash", "flash_attention_2"), ("sdpa", "sdpa"), ("eager", "eager")])
def test_transformers_has_its_own_names(asked: Any, expected: str) -> None:
    assert implementation(asked) == expected


def test_xformers_is_not_there_yet() -> None:
    with pytest.raises(AttentionUnavailable, match=r"^attention xformers is not built in yet$"):
        check_available("xformers", CUDA)


def test_flash_needs_a_cuda_device() -> None:
    with pytest.raises(AttentionUnavailable, match="flash-attn needs a CUDA device and this is 'cpu'"):
        check_available("flash", CPU)


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


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_sdpa_and_eager_run_everywhere(attention: Any, device: Any) -> None:
    check_available(attention, device)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4> >"], "flash-attn"),
        (["void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>"], "flash-attn"),
        (["flash_attn::_flash_attn_forward"], "flash-attn"),
        (["void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<128>>"], "sdpa-flash"),
        (["aten::_scaled_dot_product_flash_attention_for_cpu"], "sdpa-flash"),
        (["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7"], "sdpa-cudnn"),
        (["aten::_scaled_dot_product_cudnn_attention_backward"], "sdpa-cudnn"),
        (["fmha_cutlassF_bf16_aligned_64x128_rf_sm80"], "sdpa-efficient"),
        (["aten::_scaled_dot_product_efficient_attention"], "sdpa-efficient"),
        (["aten::_scaled_dot_product_attention_math", "aten::_softmax"], "sdpa-math"),
        (["xformers::efficient_attention_forward_cutlass", "fmha_cutlassF_bf16_aligned"], "xformers"),
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
        ("xformers", "sdpa-efficient", True),
        ("flash", None, False),
    ],
)
def test_a_fallback_is_anything_else_than_what_was_asked_for(requested: Any, observed: Any, expected: bool) -> None:
    assert is_fallback(requested, observed) is expected


def _profiled(attention: Any, lengths: list[int]) -> set[str]:
    case = Case(model="qwen-7b-chat", attention=attention)
    model = build_model(case, Workload(scale="smoke", device="cpu"), "cpu").train()
    (batch,) = make_batches(lengths, len(lengths), 512, "cpu", seed=1)
    with torch.profiler.profile() as profile:
        model(**batch.inputs()).loss.backward()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("lengths", [[32], [32, 20]], ids=["unpadded", "padded"])
@pytest.mark.parametrize(("asked", "expected"), [("sdpa", "sdpa-flash"), ("eager", "eager")])
def test_a_real_step_runs_the_attention_asked_for(asked: Any, expected: str, lengths: list[int]) -> None:
    assert observed_attention(_profiled(asked, lengths)) == expected


def test_a_real_fallback_to_the_math_kernel_is_seen() -> None:
    with sdpa_kernel(SDPBackend.MATH):
        observed = observed_attention(_profiled("sdpa", [32]))

    assert observed == "sdpa-math"
    assert is_fallback("sdpa", observed)
