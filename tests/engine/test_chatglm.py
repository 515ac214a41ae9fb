"""ChatGLM3 computes what transformers' GLM does, which has separate query, key and value projections."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
import transformers

from pytest_llmbench.engine.batches import make_batches
from pytest_llmbench.engine.models import architecture_of, build_model
from pytest_llmbench.engine.models.chatglm import chatglm
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions


def _two_groups(attention: str) -> Any:
    """A small model with two key-value heads, as the original has, and with weights that all do something."""
    sizes = {"hidden_size": 64, "num_heads": 8, "num_kv_heads": 2}
    model: Any = chatglm(msgspec.structs.replace(architecture_of("chatglm3-6b", "smoke"), **sizes), attention).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
    return model


def _reference(ours: Any) -> Any:
    """Transformers' GLM with the weights of *ours*."""
    model = transformers.GlmForCausalLM(ours.config).eval()
    state = {
        "model.embed_tokens.weight": ours.transformer.embedding.word_embeddings.weight,
        "model.norm.weight": ours.transformer.encoder.final_layernorm.weight,
        "lm_head.weight": ours.transformer.output_layer.weight,
    }
    for index, layer in enumerate(ours.transformer.encoder.layers):
        prefix = f"model.layers.{index}"
        fused = layer.self_attention.query_key_value
        for kind in ("weight", "bias"):
            for name, part in zip("qkv", getattr(fused, kind).split([64, 16, 16]), strict=True):
                state[f"{prefix}.self_attn.{name}_proj.{kind}"] = part
        state[f"{prefix}.self_attn.o_proj.weight"] = layer.self_attention.dense.weight
        state[f"{prefix}.mlp.gate_up_proj.weight"] = layer.mlp.dense_h_to_4h.weight
        state[f"{prefix}.mlp.down_proj.weight"] = layer.mlp.dense_4h_to_h.weight
        state[f"{prefix}.input_layernorm.weight"] = layer.input_layernorm.weight
        state[f"{prefix}.post_attention_layernorm.weight"] = layer.post_attention_layernorm.weight
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("lengths", [[33], [20, 33, 7]], ids=["unpadded", "padded"])
def test_logits_and_loss_are_those_of_transformers_own_model(attention: str, lengths: list[int]) -> None:
    ours = _two_groups(attention)
    (batch,) = make_batches(lengths, len(lengths), 512, "cpu", seed=1)
    with torch.no_grad():
        got, expected = ours(**batch.inputs()), _reference(ours)(**batch.inputs())

    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.loss, expected.loss)


def test_half_of_each_head_rotates_in_interleaved_pairs() -> None:
    built: Any = build_model(Case(model="chatglm3-6b", attention="sdpa"), Workload(device="cpu"), "meta")

    frequencies = built.transformer.rotary_pos_emb.inv_freq.tolist()

    assert frequencies == pytest.approx([1e4 ** (-index / 32) for index in range(32)])


def test_the_fused_projection_has_two_key_value_heads() -> None:
    built: Any = build_model(Case(model="chatglm3-6b", attention="sdpa"), Workload(device="cpu"), "meta")

    fused = built.transformer.encoder.layers[0].self_attention.query_key_value

    assert (fused.in_features, fused.out_features) == (4096, (32 + 2 + 2) * 128)
