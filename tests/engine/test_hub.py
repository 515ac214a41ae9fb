"""Models of the user's own: built from a directory, with random weights or those of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pytest_llmbench.engine.adapters import attach, count_parameters
from pytest_llmbench.engine.attention import AttentionUnavailable, observed_attention
from pytest_llmbench.engine.batches import make_batches
from pytest_llmbench.engine.models import ModelUnavailable, architecture_of, build_model
from pytest_llmbench.engine.models.hub import checkpoint
from pytest_llmbench.engine.outcomes import Unavailable
from pytest_llmbench.engine.training import build_fine_tuning
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.versions

CPU = torch.device("cpu")
FULL = Workload(scale="full", device="cpu", samples=1)
SMOKE = Workload(scale="smoke", device="cpu", samples=1)


def _llama(**changed: Any) -> Any:
    sizes = {
        "vocab_size": 600,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": 599,
    }
    return transformers.LlamaConfig(**sizes | changed)


def _gpt2(**changed: Any) -> Any:
    return transformers.GPT2Config(vocab_size=600, n_positions=2048, n_embd=48, n_layer=3, n_head=4, **changed)


def _saved(config: Any, directory: Path, *, weights: bool = False) -> str:
    if weights:
        torch.manual_seed(1)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    else:
        config.save_pretrained(directory)
    return str(directory)


def _case(model: str, **axes: Any) -> Case:
    return Case(model=model, attention=axes.pop("attention", "sdpa"), **axes)


@pytest.mark.parametrize("config", [_llama(), _gpt2()], ids=["llama", "gpt2"])
def test_a_directory_gives_the_model_of_its_configuration(tmp_path: Path, config: Any) -> None:
    case = _case(_saved(config, tmp_path))
    expected = transformers.AutoModelForCausalLM.from_config(config)

    built = build_model(case, FULL, CPU)

    assert type(built) is type(expected)
    assert count_parameters(built)[1] == sum(parameter.numel() for parameter in expected.parameters())
    assert {(parameter.device.type, parameter.dtype) for parameter in built.parameters()} == {("cpu", torch.bfloat16)}


def test_adapters_go_where_the_names_say(tmp_path: Path) -> None:
    architecture = architecture_of(_saved(_llama(), tmp_path), "full")

    assert architecture.default_targets == ("q_proj", "k_proj", "v_proj")
    assert architecture.all_targets == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_other_linear_classes_are_adapted_too(tmp_path: Path) -> None:
    architecture = architecture_of(_saved(_gpt2(), tmp_path), "full")

    assert (architecture.default_targets, architecture.all_targets) == (("c_attn",), ("c_attn", "c_proj", "c_fc"))


@pytest.mark.parametrize("config", [_llama(), _gpt2()], ids=["llama", "gpt2"])
@pytest.mark.parametrize("workload", [FULL, SMOKE], ids=["full", "smoke"])
# GPT-2's layers keep input and output the other way round, which peft tells and then sees to.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
def test_a_step_of_it_can_be_taken(tmp_path: Path, config: Any, workload: Workload) -> None:
    case = _case(_saved(config, tmp_path), max_length=128, accumulation_steps=1)

    training = build_fine_tuning(case, workload, CPU)
    loss = training.micro_step(0).loss
    training.optimizer_step()

    assert loss is not None
    assert loss.isfinite()


def test_a_miniature_is_small_whatever_the_model(tmp_path: Path) -> None:
    built = build_model(_case(_saved(_llama(vocab_size=32_000, head_dim=8), tmp_path)), SMOKE, CPU)
    sizes = built.config

    assert (sizes.num_hidden_layers, sizes.vocab_size, sizes.hidden_size, sizes.head_dim) == (2, 512, 48, 16)
    assert (sizes.num_attention_heads, sizes.num_key_value_heads) == (3, 1)


def test_a_miniature_of_two_layers_is_narrow_too(tmp_path: Path) -> None:
    built = build_model(_case(_saved(_llama(vocab_size=32_000, num_hidden_layers=2), tmp_path)), SMOKE, CPU)

    assert (built.config.num_hidden_layers, built.config.vocab_size) == (2, 512)


def test_a_miniature_has_a_layer_of_each_kind(tmp_path: Path) -> None:
    if not hasattr(transformers, "Gemma3TextConfig"):
        pytest.skip("this transformers has no model with layers of several kinds")
    kinds = ["sliding_attention"] * 3 + ["full_attention"]
    config = transformers.Gemma3TextConfig(num_hidden_layers=4, hidden_size=48, num_attention_heads=4, vocab_size=600)
    config.layer_types = kinds

    built = build_model(_case(_saved(config, tmp_path)), SMOKE, CPU)

    assert built.config.layer_types == ["sliding_attention", "full_attention"]


def test_a_configuration_that_computes_the_kinds_of_its_layers_has_a_miniature(tmp_path: Path) -> None:
    if not hasattr(transformers, "FalconH1Config"):
        pytest.skip("this transformers has no such model")
    config = transformers.FalconH1Config(num_hidden_layers=3, hidden_size=96, vocab_size=600)

    built = build_model(_case(_saved(config, tmp_path)), SMOKE, CPU)

    assert built.config.num_hidden_layers == 2


def test_whatever_transformers_trips_over_is_told_in_its_words(tmp_path: Path) -> None:
    scaling = {"rope_type": "longrope", "long_factor": [1.0] * 7, "short_factor": [1.0] * 7}
    config = transformers.Phi3Config(
        hidden_size=48, num_attention_heads=6, num_hidden_layers=1, vocab_size=600, pad_token_id=0
    )
    config.save_pretrained(tmp_path)
    path = Path(tmp_path, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_scaling": scaling, "rope_parameters": scaling}))

    with pytest.raises(ModelUnavailable, match="cannot be built by transformers: "):
        build_model(_case(str(tmp_path)), FULL, CPU)


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    built = build_model(_case(_saved(_llama(tie_word_embeddings=True), tmp_path)), FULL, CPU)

    assert built.get_output_embeddings().weight is built.get_input_embeddings().weight


@pytest.mark.parametrize("config", [_llama(), _llama(tie_word_embeddings=True), _gpt2()], ids=["llama", "tied", "gpt2"])
def test_pretrained_weights_are_those_of_the_checkpoint(tmp_path: Path, config: Any) -> None:
    directory = _saved(config, tmp_path, weights=True)
    (batch,) = make_batches([33, 20], 2, 600, "cpu", seed=1)

    built: Any = build_model(_case(directory, weights="pretrained"), FULL, CPU, torch.float32).eval()
    expected = transformers.AutoModelForCausalLM.from_pretrained(directory).float().eval()

    with torch.no_grad():
        torch.testing.assert_close(built(**batch.inputs()).logits, expected(**batch.inputs()).logits)


def test_random_weights_are_not_those_of_the_checkpoint(tmp_path: Path) -> None:
    directory = _saved(_llama(), tmp_path, weights=True)

    built = build_model(_case(directory), FULL, CPU)

    name = "model.embed_tokens.weight"
    assert not torch.equal(built.state_dict()[name], checkpoint(directory, torch.bfloat16)[name])


def test_a_miniature_has_random_weights_and_needs_no_checkpoint(tmp_path: Path) -> None:
    built = build_model(_case(_saved(_llama(), tmp_path), weights="pretrained"), SMOKE, CPU)

    assert built.config.num_hidden_layers == 2


def test_an_attention_of_torch_can_be_chosen(tmp_path: Path) -> None:
    model: Any = build_model(_case(_saved(_llama(), tmp_path), attention="sdpa-math"), FULL, CPU)
    with torch.profiler.profile() as profile:
        model(torch.arange(1, 9).unsqueeze(0))

    assert observed_attention(event.key for event in profile.key_averages()) == "sdpa-math"


def test_an_attention_that_cannot_run_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(AttentionUnavailable, match="needs a CUDA device"):
        build_model(_case(_saved(_llama(), tmp_path), attention="flash"), FULL, CPU)


def _refused(model: str, workload: Workload = FULL, **axes: Any) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        build_model(_case(model, **axes), workload, CPU)
    assert isinstance(caught.value, Unavailable)
    return str(caught.value)


def test_a_missing_directory_is_one_sentence(tmp_path: Path) -> None:
    model = str(tmp_path / "nowhere")

    assert _refused(model) == f"model {model!r}: there is no file {model}/config.json"


def test_missing_weights_are_one_sentence(tmp_path: Path) -> None:
    model = _saved(_llama(), tmp_path)

    sentence = _refused(model, weights="pretrained")

    assert sentence.startswith(f"model {model!r} cannot be built by transformers: Error no file named")
    assert "\n" not in sentence


def test_an_unknown_kind_of_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "made-up"}))

    sentence = _refused(str(tmp_path))

    assert "made-up" in sentence
    assert "\n" not in sentence


def test_a_model_that_predicts_no_next_token_is_one_sentence(tmp_path: Path) -> None:
    config = transformers.CLIPConfig()

    assert "\n" not in _refused(_saved(config, tmp_path))


def test_a_hub_id_without_the_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True, raising=False)  # before transformers 5

    sentence = _refused("someone/their-model")

    assert sentence.startswith("model 'someone/their-model' cannot be built by transformers: We couldn't connect")
    assert "\n" not in sentence


def test_samples_longer_than_the_positions_are_refused(tmp_path: Path) -> None:
    model = _saved(_llama(max_position_embeddings=1024), tmp_path)

    assert _refused(model, max_length=2048) == (
        f"model {model!r} has 1024 positions, and max_length=2048 lets longer samples through; use max_length=1024, "
        "or raise max_position_embeddings in its configuration"
    )
    build_model(_case(model, max_length=2048), SMOKE, CPU)
    build_model(_case(model, max_length=1024), FULL, CPU)


def test_projections_of_unknown_names_need_all_targets(tmp_path: Path) -> None:
    model = _saved(transformers.CTRLConfig(vocab_size=600, n_embd=48, n_layer=2, n_head=4, n_positions=2048), tmp_path)

    sentence = _refused(model)

    assert sentence.endswith("is known as a query, key or value projection; use lora_targets='all'")


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    config = _llama()
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    model = _saved(config, tmp_path)

    assert "its weights are quantized already" in _refused(model, weights="pretrained")


def test_trainable_parameters_are_counted(tmp_path: Path) -> None:
    case = _case(_saved(_llama(), tmp_path), lora_rank=2)

    model = attach(build_model(case, FULL, CPU), case, architecture_of(case.model, "full"))

    assert count_parameters(model)[0] == 3 * 2 * ((48 + 48) + 2 * (48 + 16))
