"""The built-in models: their exact sizes and names, and what holds for each of them in a training step."""

from __future__ import annotations

import gc
from typing import Any

import msgspec
import pytest
import torch

from pytest_llmbench.engine.adapters import attach, count_parameters
from pytest_llmbench.engine.attention import AttentionUnavailable, check_available, observed_attention
from pytest_llmbench.engine.batches import Batch, make_batches
from pytest_llmbench.engine.models import architecture_of, build_model, enable_checkpointing
from pytest_llmbench.engine.models.architecture import ARCHITECTURES, miniature
from pytest_llmbench.engine.models.qwen import qwen
from pytest_llmbench.engine.quantization import quantizer
from pytest_llmbench.schema.case import MODELS, Case
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions

SMOKE = Workload(scale="smoke", device="cpu")
FULL = Workload(scale="full", device="cpu")
PADDED, UNPADDED = [20, 33, 7], [33]

# Parameters, and the trainable ones of rank-8 adapters on the default and on all target modules.
SIZES = [
    ("qwen-1_8b-chat", 1_836_828_672, 1_572_864, 6_709_248),
    ("qwen-7b-chat", 7_721_324_544, 4_194_304, 17_891_328),
    ("qwen-14b-chat", 14_167_290_880, 6_553_600, 27_893_760),
    ("qwen-72b-chat", 72_287_920_128, 20_971_520, 94_371_840),
    ("chatglm3-6b", 6_243_584_000, 1_949_696, 14_823_424),
    ("yi-6b-chat", 6_061_035_520, 4_456_448, 18_153_472),
    ("yi-34b-chat", 34_388_917_248, 14_745_600, 61_440_000),
    ("openbuddy-zephyr-7b-chat", 7_279_480_832, 4_718_592, 20_971_520),
    ("baichuan2-7b-chat", 7_505_973_248, 4_194_304, 17_891_328),
    ("baichuan2-13b-chat", 13_896_668_160, 6_553_600, 27_893_760),
]

QWEN = {
    "transformer.wte",
    "transformer.h.0.ln_1",
    "transformer.h.0.attn.c_attn",
    "transformer.h.0.attn.c_proj",
    "transformer.h.0.ln_2",
    "transformer.h.0.mlp.w1",
    "transformer.h.0.mlp.w2",
    "transformer.h.0.mlp.c_proj",
    "transformer.ln_f",
    "lm_head",
}
CHATGLM = {
    "transformer.embedding.word_embeddings",
    "transformer.encoder.layers.0.input_layernorm",
    "transformer.encoder.layers.0.self_attention.query_key_value",
    "transformer.encoder.layers.0.self_attention.dense",
    "transformer.encoder.layers.0.post_attention_layernorm",
    "transformer.encoder.layers.0.mlp.dense_h_to_4h",
    "transformer.encoder.layers.0.mlp.dense_4h_to_h",
    "transformer.encoder.final_layernorm",
    "transformer.output_layer",
}
LLAMA_BUT_ATTENTION = {
    "model.embed_tokens",
    "model.layers.0.self_attn.o_proj",
    "model.layers.0.mlp.gate_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.0.mlp.down_proj",
    "model.layers.0.input_layernorm",
    "model.layers.0.post_attention_layernorm",
    "model.norm",
    "lm_head",
}
LLAMA = LLAMA_BUT_ATTENTION | {f"model.layers.0.self_attn.{part}_proj" for part in "qkv"}
BAICHUAN = LLAMA_BUT_ATTENTION | {"model.layers.0.self_attn.W_pack"}

NAMES_AND_BIASES = [
    ("qwen-7b-chat", QWEN, {"transformer.h.0.attn.c_attn"}),
    ("chatglm3-6b", CHATGLM, {"transformer.encoder.layers.0.self_attention.query_key_value"}),
    ("yi-6b-chat", LLAMA, set()),
    ("openbuddy-zephyr-7b-chat", LLAMA, set()),
    ("baichuan2-7b-chat", BAICHUAN, set()),
    ("baichuan2-13b-chat", BAICHUAN, set()),
]

# One of each kind; the others differ in sizes only.
KINDS = [model for model, _, _ in NAMES_AND_BIASES]
each_kind = pytest.mark.parametrize("model", KINDS)


def _small(model: str = "qwen-7b-chat", attention: Any = "sdpa", dtype: Any = torch.float32) -> Any:
    return build_model(Case(model=model, attention=attention), SMOKE, "cpu", dtype)


def _batch(lengths: list[int]) -> Batch:
    (batch,) = make_batches(lengths, len(lengths), 512, "cpu", seed=1)
    return batch


@pytest.mark.parametrize(("model", "parameters", "default", "every"), SIZES)
def test_full_models_and_their_adapters_have_the_published_sizes(
    model: str, parameters: int, default: int, every: int
) -> None:
    def counts(targets: Any) -> tuple[int, int]:
        case = Case(model=model, attention="sdpa", lora_targets=targets)
        adapted = attach(build_model(case, FULL, "meta"), case, architecture_of(model, "full"))
        return count_parameters(adapted)

    assert [counts("default"), counts("all")] == [(default, parameters + default), (every, parameters + every)]


def test_every_published_model_is_built_in() -> None:
    assert tuple(ARCHITECTURES) == MODELS == tuple(model for model, *_ in SIZES)


@pytest.mark.parametrize(("model", "names", "_"), NAMES_AND_BIASES)
def test_module_names_are_those_of_the_original(model: str, names: set[str], _: set[str]) -> None:
    weights = {name.removesuffix(".weight") for name, _ in _small(model).named_parameters() if name.endswith("weight")}

    assert {name for name in weights if ".1." not in name} == names


@pytest.mark.parametrize(("model", "_", "biased"), NAMES_AND_BIASES)
def test_biases_are_those_of_the_original(model: str, _: set[str], biased: set[str]) -> None:
    biases = {name.removesuffix(".bias") for name, _ in _small(model).named_parameters() if name.endswith("bias")}

    assert {name for name in biases if ".1." not in name} == biased


@each_kind
def test_all_targets_are_every_linear_layer_but_the_head(model: str) -> None:
    built = _small(model)
    head = built.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in built.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }

    assert linear == set(ARCHITECTURES[model].all_targets)


def test_a_model_on_the_meta_device_has_its_dtype_and_no_memory() -> None:
    built = build_model(Case(model="qwen-72b-chat", attention="sdpa"), FULL, "meta")

    assert {(parameter.device.type, parameter.dtype) for parameter in built.parameters()} == {("meta", torch.bfloat16)}


def test_an_attention_that_cannot_run_stops_the_build() -> None:
    with pytest.raises(AttentionUnavailable):
        build_model(Case(model="qwen-7b-chat", attention="flash"), FULL, "cpu")


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda architecture: architecture.name)
def test_a_miniature_keeps_what_is_not_a_size(architecture: Any) -> None:
    small = miniature(architecture)

    assert (small.num_layers, small.hidden_size // small.num_heads) == (2, 16)
    assert small.num_heads // small.num_kv_heads == architecture.num_heads // architecture.num_kv_heads
    assert (small.family, small.rope_theta, small.norm_eps) == (
        architecture.family,
        architecture.rope_theta,
        architecture.norm_eps,
    )
    assert (small.default_targets, small.all_targets) == (architecture.default_targets, architecture.all_targets)


def test_a_sliding_window_shrinks_as_the_samples_do() -> None:
    assert miniature(ARCHITECTURES["openbuddy-zephyr-7b-chat"]).sliding_window == 4096 // 64


@each_kind
def test_weights_are_random_norms_one_and_biases_zero(model: str) -> None:
    for name, parameter in _small(model).named_parameters():
        if "norm" in name or ".ln_" in name:
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


@each_kind
def test_weights_are_the_same_every_time(model: str) -> None:
    one, other = _small(model).state_dict(), _small(model).state_dict()

    assert all(torch.equal(one[name], other[name]) for name in one)


def test_layers_do_not_share_their_values() -> None:
    first, second = _small().transformer.h

    assert not torch.equal(first.mlp.w1.weight, second.mlp.w1.weight)


@each_kind
def test_weights_are_bf16_and_rotary_frequencies_fp32(model: str) -> None:
    built = build_model(Case(model=model), SMOKE, "cpu")

    assert {parameter.dtype for parameter in built.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in built.buffers()} <= {torch.float32}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@each_kind
def test_no_token_sees_a_later_one(model: str, attention: str) -> None:
    built = _small(model, attention).eval()
    tokens = torch.arange(1, 34).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 20:] += 100
    with torch.no_grad():
        before, after = built(tokens).logits, built(changed).logits

    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@each_kind
def test_padding_changes_no_sample(model: str, attention: str) -> None:
    built = _small(model, attention).eval()
    together = _batch(PADDED)
    with torch.no_grad():
        logits = built(**together.inputs()).logits
        for row, length in enumerate(PADDED):
            alone = built(together.input_ids[row : row + 1, :length]).logits

            torch.testing.assert_close(logits[row, :length], alone[0])


@pytest.mark.parametrize("model", [model for model in KINDS if model != "baichuan2-13b-chat"])
def test_without_padding_sdpa_gets_no_mask(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []

    def record(*args: Any, attn_mask: Any = None, **kwargs: Any) -> Any:
        masks.append((attn_mask, kwargs["is_causal"]))
        return attend(*args, attn_mask=attn_mask, **kwargs)

    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    _small(model)(**_batch(UNPADDED).inputs())

    assert masks == [(None, True)] * 2


def _gradients(model: Any, *, checkpointing: bool) -> tuple[dict[str, Any], int]:
    """Gradients of one step by parameter, and how often the first block ran."""
    first_mlp = next(module for name, module in model.named_modules() if name.endswith("0.mlp"))
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
@each_kind
def test_checkpointing_recomputes_and_changes_no_gradient(model: str, attention: Any, tuner: Any) -> None:
    case = Case(model=model, attention=attention, tuner=tuner, lora_targets="all")
    built = attach(_small(model, attention), case, architecture_of(case.model, "smoke"))
    with torch.no_grad():  # at first B is zero, and so is every gradient of A
        for name, parameter in built.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    plain, runs = _gradients(built, checkpointing=False)
    checkpointed, runs_checkpointed = _gradients(built, checkpointing=True)

    assert (runs, runs_checkpointed) == (1, 2)
    assert plain.keys() == checkpointed.keys() == {name for name, p in built.named_parameters() if p.requires_grad}
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name], msg=name)


@each_kind
def test_checkpointing_keeps_less_alive(model: str) -> None:
    def saved_bytes(*, checkpointing: bool) -> int:
        built = _small(model).train()
        if checkpointing:
            enable_checkpointing(built)
        saved: list[int] = []

        def pack(tensor: Any) -> Any:
            saved.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            built(**_batch(UNPADDED).inputs())
        return sum(saved)

    assert saved_bytes(checkpointing=True) < 0.7 * saved_bytes(checkpointing=False)


@each_kind
def test_embeddings_can_be_had_and_replaced(model: str) -> None:
    built = _small(model)
    embedding, head = torch.nn.Embedding(512, 64), torch.nn.Linear(64, 512, bias=False)
    assert built.get_input_embeddings().weight.shape == built.get_output_embeddings().weight.shape

    built.set_input_embeddings(embedding)
    built.set_output_embeddings(head)

    assert built.get_input_embeddings() is embedding
    assert built.get_output_embeddings() is head


def test_bf16_quantizes_nothing() -> None:
    linear = torch.nn.Linear(2, 2)
    before = linear.weight.clone()
    backend = quantizer("bf16")

    backend.prepare(linear)
    backend.store(linear)

    assert torch.equal(linear.weight, before)


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # said once of every profile
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


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_full_model_is_built_on_the_gpu_in_its_own_size() -> None:
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = build_model(Case(model="qwen-1_8b-chat", attention="sdpa"), Workload(), "cuda")

    assert torch.cuda.max_memory_allocated() - before == pytest.approx(2 * count_parameters(model)[1], rel=0.01)


def test_a_model_without_memory_may_have_an_attention_that_only_a_gpu_runs() -> None:
    case = Case(model="qwen-7b-chat", attention="sdpa-cudnn")

    model = build_model(case, Workload(device="cuda"), "meta")

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
