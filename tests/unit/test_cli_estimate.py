"""`llmbench estimate`, as it is typed: what it refuses before anything is estimated."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pytest_llmbench.cli import app


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "name rows with -k or --table, a model with --model, or a step of your own with --step"),
        (("-k", "no-such-row"), "-k 'no-such-row' selects no row"),
        (("--table", "none"), "no table 'none'"),
        (("--max-length", "512"), "--max-length is of a model; name it with --model"),
        (("--model", "qwen-7b"), "unknown model 'qwen-7b'"),
        (("--model", "qwen-7b-chat", "--tuner", "both"), "not a case: Invalid enum value 'both' - at `$.tuner`"),
        (("--model", "qwen-7b-chat", "--length", "0"), "--length 0: give a number of tokens above 0, or 'max'"),
        (("--model", "qwen-7b-chat", "--length", "1"), "--length 1: a sample of one token has nothing to predict"),
        (("--model", "qwen-7b-chat", "--card", "H1000"), "--card: there is no card 'H1000'; give 24GB, 40GB, "),
        (("--model", "qwen-7b-chat", "--card", "500MiB"), "less than CUDA takes for itself, 744 MiB"),
        (("--step", "m:f", "--length", "512"), "--length 512: m:f makes its own samples; leave --length out"),
        (("--model", "qwen-7b-chat", "--samples", "0"), "--samples 0: give a number of samples above 0"),
    ],
)
def test_what_is_asked_wrongly_ends_with_status_2_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)

    ran = CliRunner().invoke(app, ["estimate", *options])

    assert ran.exit_code == 2
    assert told in ran.stderr
    assert not list(tmp_path.iterdir())
