"""Qwen computes what transformers' Qwen2 does, which has separate projections."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from pytest_llmbench.engine.batches import make_batches
from pytest_llmbench.engine.models import build_model
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions


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


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("lengths", [[33], [20, 33, 7]], ids=["unpadded", "padded"])
def test_logits_and_loss_are_those_of_transformers_own_model(attention: Any, lengths: list[int]) -> None:
    case = Case(model="qwen-7b-chat", attention=attention)
    ours: Any = build_model(case, Workload(scale="smoke", device="cpu"), "cpu", torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    (batch,) = make_batches(lengths, len(lengths), 512, "cpu", seed=1)
    with torch.no_grad():
        for parameter in ours.parameters():  # biases and norms that do nothing would hide a mistake
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        got, expected = ours(**batch.inputs()), _reference(ours)(**batch.inputs())

    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.loss, expected.loss)


@pytest.mark.parametrize(("model", "theta"), [("qwen-7b-chat", 1e4), ("qwen-72b-chat", 1e6)])
def test_positions_rotate_with_the_models_own_base(model: str, theta: float) -> None:
    built: Any = build_model(Case(model=model, attention="sdpa"), Workload(device="cpu"), "meta")
    frequencies = built.transformer.rotary_emb.inv_freq

    assert frequencies.dtype == torch.float32
    assert frequencies.tolist() == pytest.approx([theta ** (-index / 64) for index in range(64)])
