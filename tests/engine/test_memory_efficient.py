"""
xformers' attention as transformers' models call it, and why it cannot run.

Its kernels need a GPU, so most tests put a package of the same interface in its place.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_llmbench.engine.attention import AttentionUnavailable, check_available, observed_attention
from pytest_llmbench.engine.batches import make_batches
from pytest_llmbench.engine.memory_efficient import memory_efficient_attention, why_unavailable
from pytest_llmbench.engine.models import architecture_of, build_model
from pytest_llmbench.engine.models.baichuan import baichuan
from pytest_llmbench.engine.models.llama import llama
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions

CPU = torch.device("cpu")

# What xformers documents: [batch, length, heads, head_dim] in and out, causal by the kind of bias.
PLAIN = """
import math
import torch

class LowerTriangularMask: pass

def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
    assert query.shape == key.shape == value.shape and isinstance(attn_bias, LowerTriangularMask)
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    later = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).triu(1)
    weights = torch.dropout(scores.masked_fill(later, -math.inf).softmax(-1), p, True)
    return (weights @ value).transpose(1, 2)
"""

WITHOUT_KERNELS = """
class LowerTriangularMask: pass

def memory_efficient_attention(*args, **kwargs):
    raise NotImplementedError("No operator found for `memory_efficient_attention_forward` with inputs:\\n  query")
"""

NOT_LOADED = """
class Build:
    torch_version = {version!r}

class Failure:
    build_info = Build()

_build_metadata = None
_cpp_library_load_exception = Failure()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a package called xformers on the path, with the given `ops` and `_cpp_lib`."""

    def write(ops: str, cpp_lib: str = "") -> None:
        package = tmp_path / "xformers"
        package.mkdir()
        (package / "__init__.py").write_text("__version__ = '0.0.35'\n")
        (package / "ops.py").write_text(ops)
        (package / "_cpp_lib.py").write_text(cpp_lib)

    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "xformers"]:
        monkeypatch.delitem(sys.modules, name)
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "xformers"]:
        del sys.modules[name]


def test_a_missing_package_is_named_with_its_cure() -> None:
    if find_spec("xformers") is not None:
        pytest.skip("xformers is installed")

    assert why_unavailable(CPU) == "xformers is not installed: pip install 'pytest-llmbench[xformers]'"


def test_a_package_that_does_not_load_is_named_with_its_error(install: Any) -> None:
    install("raise ImportError('Requires Flash-Attention version >=2.7.1,<=2.8.4 but got 2.9.0.')")

    assert why_unavailable(CPU) == (
        "xformers is installed and does not load: Requires Flash-Attention version >=2.7.1,<=2.8.4 but got 2.9.0."
    )


def test_a_package_built_for_another_torch_is_named_with_both(install: Any) -> None:
    install(WITHOUT_KERNELS, NOT_LOADED.format(version="2.10.0+cu128"))

    assert why_unavailable(CPU) == f"xformers 0.0.35 was built for torch 2.10.0+cu128, this is {torch.__version__}"


def test_without_a_kernel_for_this_device_its_own_words_are_given(install: Any) -> None:
    install(WITHOUT_KERNELS, NOT_LOADED.format(version=str(torch.__version__)))

    assert why_unavailable(CPU) == (
        "xformers cannot run here: No operator found for `memory_efficient_attention_forward` with inputs:"
    )


def test_a_package_that_works_is_available_whatever_it_was_built_for(install: Any) -> None:
    install(PLAIN, NOT_LOADED.format(version="2.10.0+cu128"))

    assert why_unavailable(CPU) is None


def test_the_reason_reaches_the_case(install: Any) -> None:
    install("raise ImportError('broken')")

    with pytest.raises(AttentionUnavailable, match=r"^xformers is installed and does not load: broken$"):
        check_available("xformers", torch.device("cuda"))


@pytest.mark.parametrize("lengths", [[33], [20, 33, 7]], ids=["unpadded", "padded"])
@pytest.mark.parametrize(("builder", "model"), [(baichuan, "baichuan2-7b-chat"), (llama, "yi-6b-chat")])
def test_the_loss_is_that_of_sdpa(install: Any, builder: Any, model: str, lengths: list[int]) -> None:
    install(PLAIN)
    architecture = architecture_of(model, "smoke")
    ours, sdpa = builder(architecture, "xformers"), builder(architecture, "sdpa")
    ours.load_state_dict(sdpa.state_dict())
    torch.nn.init.normal_(sdpa.get_output_embeddings().weight)
    ours.get_output_embeddings().weight.data.copy_(sdpa.get_output_embeddings().weight)
    (batch,) = make_batches(lengths, len(lengths), 512, "cpu", seed=1)

    got, expected = ours(**batch.inputs()).loss, sdpa(**batch.inputs()).loss

    assert "xformers.ops" in sys.modules
    torch.testing.assert_close(got, expected)


def test_a_sliding_window_shorter_than_the_sample_is_refused() -> None:
    states = torch.zeros(1, 4, 65, 16)

    with pytest.raises(Unavailable, match="65 tokens exceed that of 64; use attention='flash' or 'sdpa'"):
        memory_efficient_attention(torch.nn.Module(), states, states, states, None, sliding_window=64)


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:warmup, rep, and use_cuda_graph:DeprecationWarning")  # torch's own use of triton
def test_a_real_step_runs_it() -> None:
    try:
        check_available("xformers", torch.device("cuda"))
    except AttentionUnavailable as reason:
        pytest.skip(str(reason))
    case = Case(model="baichuan2-7b-chat", attention="xformers")
    model: Any = build_model(case, Workload(scale="smoke"), "cuda").train()
    sdpa: Any = build_model(Case(model=case.model, attention="sdpa"), Workload(scale="smoke"), "cuda")
    (batch,) = make_batches([33], 1, 512, "cuda", seed=1)
    with torch.profiler.profile() as profile:
        loss = model(**batch.inputs()).loss
        loss.backward()

    torch.testing.assert_close(loss, sdpa(**batch.inputs()).loss, rtol=1e-2, atol=1e-2)
    assert observed_attention(event.key for event in profile.key_averages()) == "xformers"
