"""The built-in models: their exact sizes, and that they compute what transformers' own model does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pytest_llmbench.cases import MODELS, Case  # noqa: E402
from pytest_llmbench.engine.adapters import attach, count_parameters  # noqa: E402
from pytest_llmbench.engine.attention import AttentionUnavailable, check_available, observed_attention  # noqa: E402
from pytest_llmbench.engine.batches import Batch, make_batches  # noqa: E402
from pytest_llmbench.engine.models import (  # noqa: E402
    ModelUnavailable,
    architecture_of,
    build_model,
    enable_checkpointing,
)
from pytest_llmbench.engine.models.architecture import ARCHITECTURES, miniature  # noqa: E402
from pytest_llmbench.engine.models.qwen import qwen  # noqa: E402
from pytest_llmbench.engine.outcomes import Unavailable  # noqa: E402
from pytest_llmbench.engine.quantization import QuantizationUnavailable, quantizer  # noqa: E402
from pytest_llmbench.workload import Workload  # noqa: E402

SMOKE = Workload(scale="smoke", device="cpu")
FULL = Workload(scale="full", device="cpu")
PADDED, UNPADDED = [20, 33, 7], [33]


def _small(attention: Any = "sdpa", dtype: Any = torch.float32) -> Any:
    return build_model(Case(model="qwen-7b-chat", attention=attention), SMOKE, "cpu", dtype)


def _batch(lengths: list[int]) -> Batch:
    (batch,) = make_batches(lengths, len(lengths), 512, "cpu", seed=1)
    return batch


def _reference(ours: Any) -> Any:
    """Transformers' Qwen2 with the weights of *ours*."""
    model = transformers.Qwen2ForCausalLM(ours.config).eval()
    state = {
        "model.embed_tokens.weight": ours.transformer.wte.weight,
        "model.norm.weight": ours.transformer.ln_f.weight,
        "lm_head.weight": ours.lm_head.weight,
    }
    for index, block in enumerate(ours.transformer.h):
        prefix = f"model.layers.{index}"
        for kind in ("weight", "bias"):
            for name, part in zip("qkv", getattr(block.attn.c_attn, kind).chunk(3), strict=True):
                state[f"{prefix}.self_attn.{name}_proj.{kind}"] = part
        state[f"{prefix}.self_attn.o_proj.weight"] = block.attn.c_proj.weight
        state[f"{prefix}.mlp.up_proj.weight"] = block.mlp.w1.weight
        state[f"{prefix}.mlp.gate_proj.weight"] = block.mlp.w2.weight
        state[f"{prefix}.mlp.down_proj.weight"] = block.mlp.c_proj.weight
        state[f"{prefix}.input_layernorm.weight"] = block.ln_1.weight
        state[f"{prefix}.post_attention_layernorm.weight"] = block.ln_2.weight
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("qwen-1_8b-chat", 1_836_828_672),
        ("qwen-7b-chat", 7_721_324_544),
        ("qwen-14b-chat", 14_167_290_880),
        ("qwen-72b-chat", 72_287_920_128),
    ],
)
def test_full_models_have_the_published_number_of_parameters(model: str, expected: int) -> None:
    built = build_model(Case(model=model, attention="sdpa"), FULL, "meta")

    assert count_parameters(built)[1] == expected


def test_a_model_on_the_meta_device_has_its_dtype_and_no_memory() -> None:
    built = build_model(Case(model="qwen-72b-chat", attention="sdpa"), FULL, "meta")

    assert {(parameter.device.type, parameter.dtype) for parameter in built.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("model", [name for name in MODELS if not name.startswith("qwen")])
def test_a_model_that_is_not_there_yet_says_so(model: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        build_model(Case(model=model, attention="sdpa"), FULL, "meta")

    assert str(caught.value) == f"model {model} is not built in yet"
    assert isinstance(caught.value, Unavailable)


def test_a_quantization_that_is_not_there_yet_is_never_measured_in_bf16() -> None:
    with pytest.raises(QuantizationUnavailable, match=r"^quantization gptq-int4 is not built in yet$"):
        build_model(Case(model="qwen-7b-chat", quantization="gptq-int4", attention="sdpa"), FULL, "meta")


def test_an_attention_that_cannot_run_stops_the_build() -> None:
    with pytest.raises(AttentionUnavailable):
        build_model(Case(model="qwen-7b-chat", attention="flash"), FULL, "cpu")


def test_every_architecture_is_a_published_model() -> None:
    assert set(ARCHITECTURES) <= set(MODELS)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda architecture: architecture.name)
def test_a_miniature_keeps_what_is_not_a_size(architecture: Any) -> None:
    small = miniature(architecture)

    assert (small.num_layers, small.hidden_size // small.num_heads) == (2, 16)
    assert (small.family, small.rope_theta, small.norm_eps) == (
        architecture.family,
        architecture.rope_theta,
        architecture.norm_eps,
    )
    assert (small.default_targets, small.all_targets) == (architecture.default_targets, architecture.all_targets)


def test_module_names_are_those_of_the_original() -> None:
    names = {name for name, _ in _small().named_parameters() if ".h.1." not in name}
    block = {"ln_1.weight", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "ln_2.weight"}
    block |= {"mlp.w1.weight", "mlp.w2.weight", "mlp.c_proj.weight"}

    assert names == {f"transformer.h.0.{name}" for name in block} | {
        "transformer.wte.weight",
        "transformer.ln_f.weight",
        "lm_head.weight",
    }


@pytest.mark.parametrize(("model", "theta"), [("qwen-7b-chat", 1e4), ("qwen-72b-chat", 1e6)])
def test_positions_rotate_with_the_models_own_base(model: str, theta: float) -> None:
    built = build_model(Case(model=model, attention="sdpa"), FULL, "meta")
    frequencies = built.transformer.rotary_emb.inv_freq

    assert frequencies.dtype == torch.float32
    assert frequencies.tolist() == pytest.approx([theta ** (-index / 64) for index in range(64)])


def test_weights_are_random_norms_one_and_biases_zero() -> None:
    block = _small().transformer.h[0]

    assert block.mlp.w1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (block.ln_1.weight == 1).all()
    assert (block.attn.c_attn.bias == 0).all()


def test_weights_are_the_same_every_time() -> None:
    one, other = _small().state_dict(), _small().state_dict()

    assert all(torch.equal(one[name], other[name]) for name in one)


def test_layers_do_not_share_their_values() -> None:
    first, second = _small().transformer.h

    assert not torch.equal(first.mlp.w1.weight, second.mlp.w1.weight)


def test_weights_are_bf16_and_rotary_frequencies_fp32() -> None:
    model = build_model(Case(model="qwen-7b-chat"), SMOKE, "cpu")

    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("lengths", [UNPADDED, PADDED], ids=["unpadded", "padded"])
def test_logits_and_loss_are_those_of_transformers_own_model(attention: str, lengths: list[int]) -> None:
    ours = _small(attention).eval()
    with torch.no_grad():
        for parameter in ours.parameters():  # biases and norms that do nothing would hide a mistake
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    inputs = _batch(lengths).inputs()
    with torch.no_grad():
        got, expected = ours(**inputs), _reference(ours)(**inputs)

    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.loss, expected.loss)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_no_token_sees_a_later_one(attention: str) -> None:
    model = _small(attention).eval()
    tokens = torch.arange(1, 34).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 20:] += 100
    with torch.no_grad():
        before, after = model(tokens).logits, model(changed).logits

    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_changes_no_sample(attention: str) -> None:
    model = _small(attention).eval()
    together = _batch(PADDED)
    with torch.no_grad():
        logits = model(**together.inputs()).logits
        for row, length in enumerate(PADDED):
            alone = model(together.input_ids[row : row + 1, :length]).logits

            torch.testing.assert_close(logits[row, :length], alone[0])


def test_without_padding_sdpa_gets_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []

    def record(*args: Any, attn_mask: Any = None, **kwargs: Any) -> Any:
        masks.append((attn_mask, kwargs["is_causal"]))
        return attend(*args, attn_mask=attn_mask, **kwargs)

    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    _small("sdpa")(**_batch(UNPADDED).inputs())

    assert masks == [(None, True)] * 2


def _gradients(model: Any, *, checkpointing: bool) -> tuple[dict[str, Any], int]:
    """Gradients of one step by parameter, and how often the first block ran."""
    first_mlp = next(module for name, module in model.named_modules() if name.endswith("h.0.mlp"))
    runs: list[int] = []
    # Before and not after: recomputing stops as soon as the last tensor that the backward pass needs is there.
    handle = first_mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    if checkpointing:
        enable_checkpointing(model)
    model.zero_grad()
    torch.manual_seed(1)  # for dropout in the adapters
    model(**_batch(PADDED).inputs()).loss.backward()
    handle.remove()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, len(runs)


@pytest.mark.parametrize("tuner", ["lora", "full"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_checkpointing_recomputes_and_changes_no_gradient(attention: Any, tuner: Any) -> None:
    case = Case(model="qwen-7b-chat", attention=attention, tuner=tuner, lora_targets="all")
    model = attach(_small(attention), case, architecture_of(case.model, "smoke"))
    with torch.no_grad():  # at first B is zero, and so is every gradient of A
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    plain, runs = _gradients(model, checkpointing=False)
    checkpointed, runs_checkpointed = _gradients(model, checkpointing=True)

    assert (runs, runs_checkpointed) == (1, 2)
    assert plain.keys() == checkpointed.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name], msg=name)


def test_checkpointing_keeps_less_alive() -> None:
    def saved_bytes(*, checkpointing: bool) -> int:
        model = _small().train()
        if checkpointing:
            enable_checkpointing(model)
        saved: list[int] = []

        def pack(tensor: Any) -> Any:
            saved.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**_batch(UNPADDED).inputs())
        return sum(saved)

    assert saved_bytes(checkpointing=True) < saved_bytes(checkpointing=False) / 2


def test_embeddings_can_be_had_and_replaced() -> None:
    model = _small()
    embedding, head = torch.nn.Embedding(512, 64), torch.nn.Linear(64, 512, bias=False)
    assert model.get_input_embeddings() is model.transformer.wte
    assert model.get_output_embeddings() is model.lm_head

    model.set_input_embeddings(embedding)
    model.set_output_embeddings(head)

    assert model.transformer.wte is embedding
    assert model.lm_head is head


def test_bf16_quantizes_nothing() -> None:
    linear = torch.nn.Linear(2, 2)
    before = linear.weight.clone()
    backend = quantizer("bf16")

    backend.prepare(linear)
    backend.store(linear)

    assert torch.equal(linear.weight, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("lengths", [UNPADDED, PADDED], ids=["unpadded", "padded"])
def test_flash_attention_agrees_with_sdpa(lengths: list[int]) -> None:
    try:
        check_available("flash", torch.device("cuda"))
    except AttentionUnavailable as reason:
        pytest.skip(str(reason))
    # Some builds of flash-attn have kernels for the full models' head dimension only.
    architecture = msgspec.structs.replace(architecture_of("qwen-7b-chat", "smoke"), hidden_size=256, num_heads=2)
    flash, sdpa = (qwen(architecture, name).to("cuda", torch.bfloat16) for name in ("flash_attention_2", "sdpa"))
    flash.load_state_dict(sdpa.state_dict())
    (batch,) = make_batches(lengths, len(lengths), 512, "cuda", seed=1)
    with torch.profiler.profile() as profile:
        got = flash(**batch.inputs())

    torch.testing.assert_close(got.loss, sdpa(**batch.inputs()).loss, rtol=1e-2, atol=1e-2)
    assert observed_attention(event.key for event in profile.key_averages()) == "flash-attn"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_full_model_is_built_on_the_gpu_in_its_own_size() -> None:
    torch.cuda.reset_peak_memory_stats()
    model = build_model(Case(model="qwen-1_8b-chat", attention="sdpa"), Workload(), "cuda")

    assert torch.cuda.max_memory_allocated() == pytest.approx(2 * count_parameters(model)[1], rel=0.01)
