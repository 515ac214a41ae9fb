from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.schema.workload import Workload, workload_hash


def test_the_defaults_are_those_of_the_published_page() -> None:
    case = Case(model="qwen-7b-chat")

    assert (case.tuner, case.quantization, case.attention) == ("lora", "bf16", "flash")
    assert (case.max_length, case.batch_size, case.accumulation_steps, case.num_gpus) == (2048, 1, 16, 1)
    assert (case.lora_rank, case.lora_targets, case.gradient_checkpointing) == (8, "default", True)
    assert (case.weights, case.loop, case.step) == ("random", "step", None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "qwen-7b-chta"}, "unknown model 'qwen-7b-chta'; did you mean 'qwen-7b-chat'?"),
        ({"model": "gpt"}, "unknown model 'gpt'; known: qwen-1_8b-chat, "),
        ({"tuner": "qlora"}, r"not a case: Invalid enum value 'qlora' - at `\$.tuner`"),
        ({"quantization": "int4"}, "unknown quantization 'int4'; did you mean 'gptq-int4'"),
        ({"attention": "dense"}, "unknown attention 'dense'; known: flash, flash3, "),
        ({"batch_size": 0}, r"not a case: Expected `int` >= 1 - at `\$.batch_size`"),
        ({"max_length": 512.5}, r"not a case: Expected `int`, got `float` - at `\$.max_length`"),
        ({"gradient_checkpointing": "yes"}, r"not a case: Expected `bool`, got `str` - at `\$.gradient_checkpointing`"),
        ({"tuner": "full", "quantization": "bnb-nf4"}, "quantized weights have no gradient; use tuner='lora'"),
    ],
)
def test_a_case_that_means_nothing_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CaseError, match=message):
        Case(**{"model": "qwen-7b-chat"} | fields)


def test_a_custom_step_has_no_other_loop() -> None:
    with pytest.raises(CaseError, match="loop='trainer' with step='mypkg:build': a step of your own is its own loop"):
        Case(model="mine", step="mypkg:build", loop="trainer")


@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_every_tuner_trains_unquantized_weights(tuner: Any) -> None:
    assert Case(model="qwen-7b-chat", tuner=tuner).quantization == "bf16"


@pytest.mark.parametrize("step", ["", "mypkg.bench", ":build", "mypkg:", "mypkg.:build", "my pkg:build", "a:b:c"])
def test_a_step_is_a_module_and_a_function(step: str) -> None:
    with pytest.raises(CaseError, match=r"is not of the form 'package.module:function'"):
        Case.custom(step, name="mine")


def test_a_custom_case_may_be_called_anything() -> None:
    case = Case.custom("mypkg.bench:build", name="my trainer", num_gpus=2)

    assert (case.model, case.step, case.num_gpus) == ("my trainer", "mypkg.bench:build", 2)


def test_a_case_survives_json() -> None:
    case = Case(model="qwen-7b-chat", lora_rank=64, quantization="bnb-nf4")

    assert msgspec.json.decode(msgspec.json.encode(case), type=Case) == case


def test_a_misspelt_field_is_refused_in_json() -> None:
    with pytest.raises(msgspec.ValidationError, match="lora_rnak"):
        msgspec.json.decode(b'{"model": "qwen-7b-chat", "lora_rnak": 8}', type=Case)


def test_a_case_cannot_be_changed() -> None:
    case = Case(model="qwen-7b-chat")

    with pytest.raises(AttributeError):
        case.lora_rank = 64  # type: ignore[misc]


def test_arguments_are_part_of_the_work() -> None:
    def hashed(**arguments: Any) -> str:
        return workload_hash(Case.custom("m:f", name="own", arguments=arguments), Workload())

    assert len({hashed(), hashed(rank=8), hashed(rank=16), hashed(rank=8, names=["q"])}) == 4
    assert hashed(a=1, b=2) == hashed(b=2, a=1)


def test_a_case_without_arguments_keeps_its_hash() -> None:
    assert workload_hash(Case.custom("m:f", name="own"), Workload()) == "0a11aa23235fbe55"


def test_arguments_survive_json() -> None:
    case = Case.custom("m:f", name="own", arguments={"rank": 8, "names": ["q", None, {"a": 1.5}], "on": True})

    assert msgspec.json.decode(msgspec.json.encode(case), type=Case) == case


def test_a_case_with_arguments_is_a_key() -> None:
    one, same = (Case.custom("m:f", name="own", arguments={"rank": [8]}) for _ in range(2))

    assert {one: 1}[same] == 1


def test_arguments_stay_what_they_were() -> None:
    names = ["q"]
    case = Case.custom("m:f", name="own", arguments={"names": names})
    names.append("v")

    assert case.arguments == {"names": ["q"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"a": (1, 2)}, r"arguments\['a'\] is or holds a value of type tuple; give numbers, texts, True"),
        ({"a": [{"b": {1}}]}, "is or holds a value of type set"),
        ({"a": print}, "is or holds a value of type builtin_function_or_method"),
        ({"a": float("nan")}, "is nan, which is not a number to compare with"),
        ({"a": 2**70}, "is a number of more than 64 bits"),
        ({"a": {1: 2}}, "holds a dict with keys that are no texts"),
        ({"not a name": 1}, "has 'not a name', which is not the name of a keyword argument"),
        ({"a": "\ud800"}, "has text that is not Unicode"),
    ],
)
def test_arguments_that_are_not_json_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CaseError, match=message):
        Case.custom("m:f", name="own", arguments=arguments)


def test_arguments_are_those_of_a_step() -> None:
    with pytest.raises(CaseError, match=r"without a step: they are those of a step of your own; use Case\.custom"):
        Case(model="qwen-7b-chat", arguments={"rank": 8})


def test_arguments_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(CaseError, match="not a case"):
        Case(model="own", step="m:f", arguments=3)  # type: ignore[arg-type]
