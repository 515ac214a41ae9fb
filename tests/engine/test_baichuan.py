"""Baichuan2 computes what transformers' Llama and plain formulas do; its large model has ALiBi."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from pytest_llmbench.engine.attention import AttentionUnavailable
from pytest_llmbench.engine.batches import Batch, make_batches
from pytest_llmbench.engine.models import build_model
from pytest_llmbench.engine.models.baichuan import alibi_mask, alibi_slopes
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions

SMOKE = Workload(scale="smoke", device="cpu")
CPU = torch.device("cpu")
PADDED, UNPADDED = [20, 33, 7], [33]
each_padding = pytest.mark.parametrize("lengths", [UNPADDED, PADDED], ids=["unpadded", "padded"])
each_attention = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def _small(model: str, attention: Any) -> Any:
    """Weights that all do something."""
    built = build_model(Case(model=model, attention=attention), SMOKE, "cpu", torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
    return built


def _batch(lengths: list[int]) -> Batch:
    (batch,) = make_batches(lengths, len(lengths), 512, "cpu", seed=1)
    return batch


def _llama(ours: Any) -> Any:
    """Transformers' Llama with the weights of *ours*, the rows of the head normalised."""
    model = transformers.LlamaForCausalLM(ours.config).eval()
    state = {name: weight for name, weight in ours.state_dict().items() if "W_pack" not in name}
    state["lm_head.weight"] = ours.lm_head.weight / ours.lm_head.weight.norm(dim=1, keepdim=True)
    for index, layer in enumerate(ours.model.layers):
        for name, part in zip("qkv", layer.self_attn.W_pack.weight.chunk(3), strict=True):
            state[f"model.layers.{index}.self_attn.{name}_proj.weight"] = part
    model.load_state_dict(state)
    return model


@each_attention
@each_padding
def test_the_small_model_is_a_llama_with_a_normalised_head(attention: str, lengths: list[int]) -> None:
    ours = _small("baichuan2-7b-chat", attention)
    inputs = _batch(lengths).inputs()
    with torch.no_grad():
        got, expected = ours(**inputs), _llama(ours)(**inputs)

    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.loss, expected.loss)


def _by_formulas(ours: Any, tokens: Any) -> Any:
    """Logits [length, vocabulary] of one sample: the large model written down head by head, token by token."""

    def norm(states: Any, weight: Any) -> Any:
        return weight * states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def attend(query: Any, key: Any, value: Any, slope: float) -> Any:
        rows = []
        for position in range(len(query)):
            distances = torch.arange(position, -1, -1)
            scores = key[: position + 1] @ query[position] / math.sqrt(query.shape[1]) - slope * distances
            rows.append(scores.exp() @ value[: position + 1] / scores.exp().sum())
        return torch.stack(rows)

    states = ours.model.embed_tokens.weight[tokens]
    for layer in ours.model.layers:
        packed = norm(states, layer.input_layernorm.weight) @ layer.self_attn.W_pack.weight.T
        query, key, value = (part.split(16, dim=1) for part in packed.split(64, dim=1))
        heads = [attend(*parts) for parts in zip(query, key, value, [2**-2, 2**-4, 2**-6, 2**-8], strict=True)]
        states = states + torch.cat(heads, dim=1) @ layer.self_attn.o_proj.weight.T
        normed = norm(states, layer.post_attention_layernorm.weight)
        gate, up = normed @ layer.mlp.gate_proj.weight.T, normed @ layer.mlp.up_proj.weight.T
        states = states + (gate * gate.sigmoid() * up) @ layer.mlp.down_proj.weight.T
    rows = ours.lm_head.weight / ours.lm_head.weight.norm(dim=1, keepdim=True)
    return norm(states, ours.model.norm.weight) @ rows.T


@each_attention
@each_padding
def test_the_large_model_is_its_formulas(attention: str, lengths: list[int]) -> None:
    ours = _small("baichuan2-13b-chat", attention)
    batch = _batch(lengths)
    with torch.no_grad():
        logits = ours(**batch.inputs()).logits
        for row, length in enumerate(lengths):
            expected = _by_formulas(ours, batch.input_ids[row, :length])

            torch.testing.assert_close(logits[row, :length], expected, rtol=1e-4, atol=1e-4)


def test_the_large_model_rotates_nothing() -> None:
    assert _small("baichuan2-13b-chat", "sdpa").model.rotary_emb is None


@pytest.mark.parametrize("num_heads", [4, 32, 40])
def test_slopes_are_those_of_bloom(num_heads: int) -> None:
    expected = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)[:, 0, 1]

    assert alibi_slopes(num_heads) == pytest.approx(expected.tolist())


def test_the_bias_falls_with_the_distance_and_hides_what_is_later() -> None:
    mask = alibi_mask(4, 3, torch.float32, CPU)

    assert mask.shape == (1, 4, 3, 3)
    assert mask[0, 0].tolist() == [[0, -math.inf, -math.inf], [-0.25, 0, -math.inf], [-0.5, -0.25, 0]]
    assert mask[0, 1, 2].tolist() == [-0.125, -0.0625, 0]


def test_the_bias_has_the_models_dtype() -> None:
    assert alibi_mask(4, 3, torch.bfloat16, CPU).dtype == torch.bfloat16


@pytest.mark.parametrize("attention", ["flash", "flash3", "flash4", "sdpa-flash", "xformers"])
def test_an_attention_that_takes_no_bias_is_refused(attention: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_llmbench.engine.models.check_available", lambda *_: None)  # as on a GPU that has it

    with pytest.raises(AttentionUnavailable, match=r"^baichuan2-13b-chat adds a bias .*\(ALiBi\), which attention "):
        build_model(Case(model="baichuan2-13b-chat", attention=attention), Workload(device="cuda"), "meta")


def test_the_head_normalises_anew_in_each_pass() -> None:
    model = _small("baichuan2-7b-chat", "sdpa")
    tokens = torch.arange(1, 9).unsqueeze(0)
    with torch.no_grad():
        before = model(tokens).logits
        model.lm_head.weight.mul_(3)
        longer = model(tokens).logits
        model.lm_head.weight[0] = model.lm_head.weight[1]
        copied = model(tokens).logits

    torch.testing.assert_close(longer, before)
    torch.testing.assert_close(copied[..., 0], before[..., 1])


def test_the_head_is_trained_through_its_norm() -> None:
    model = _small("baichuan2-7b-chat", "sdpa")

    model(**_batch(UNPADDED).inputs()).loss.backward()
    weight, gradient = model.lm_head.weight, model.lm_head.weight.grad

    # What lengthens a row changes nothing, so the gradient has no part along it.
    torch.testing.assert_close((weight * gradient).sum(1), torch.zeros(512), atol=1e-5, rtol=0)
    assert gradient.abs().max() > 0
