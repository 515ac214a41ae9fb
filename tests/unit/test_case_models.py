"""Which models, weights and attentions a case may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_llmbench.schema.case import MODELS, Case, CaseError


@pytest.mark.parametrize("model", ["someone/their-model", "./tiny", "../tiny", "/models/tiny"])
def test_hub_ids_and_paths_are_taken_as_they_are(model: str) -> None:
    assert Case(model=model).model == model


def test_a_directory_of_the_current_one_is_written_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    assert Case(model="tiny") == Case(model="./tiny")


def test_a_case_with_a_directory_can_be_read_where_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    case = Case(model="tiny")
    monkeypatch.chdir("/")

    assert msgspec.json.decode(msgspec.json.encode(case), type=Case) == case


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("qwen-7b-cat", "did you mean 'qwen-7b-chat'?"),
        ("tiny", f"known: {', '.join(MODELS)}; others by hub id or directory"),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint(
    model: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / model).mkdir()  # without a config.json it is no model
    monkeypatch.chdir(tmp_path)

    with pytest.raises(CaseError) as caught:
        Case(model=model)

    assert str(caught.value) == f"unknown model {model!r}; {hint}"


def test_a_published_name_is_never_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qwen-7b-chat").mkdir()
    (tmp_path / "qwen-7b-chat" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    assert Case(model="qwen-7b-chat").model == "qwen-7b-chat"


def test_published_models_have_no_pretrained_weights() -> None:
    with pytest.raises(CaseError, match=r"^model='qwen-7b-chat' with weights='pretrained': the published models "):
        Case(model="qwen-7b-chat", weights="pretrained")


def test_models_of_the_users_own_have_either() -> None:
    assert Case(model="someone/theirs").weights == "random"
    assert Case(model="someone/theirs", weights="pretrained").weights == "pretrained"


@pytest.mark.parametrize(
    "attention",
    [
        "flash",
        "flash3",
        "flash4",
        "xformers",
        "eager",
        "sdpa",
        *(f"sdpa-{k}" for k in ["flash", "cudnn", "efficient", "math"]),
    ],
)
def test_attentions_have_names(attention: Any) -> None:
    assert Case(model="qwen-7b-chat", attention=attention).attention == attention


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("attention", "flash5", "unknown attention 'flash5'; did you mean 'flash'"),
        ("weights", "own", r"not a case: .*\$\.weights"),
    ],
)
def test_a_typo_fails_where_it_is_written(field: str, value: Any, told: str) -> None:
    with pytest.raises(CaseError, match=f"^{told}"):
        Case(model="qwen-7b-chat", **{field: value})
