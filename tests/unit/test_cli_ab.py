"""`llmbench ab`, as it is typed: what it refuses before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pytest_llmbench.cli import app

BOTH = ("--a", "current", "--b", "current")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--a", "current"), "name both environments, --a ENV --b ENV, or a comparison to go on with, --resume FILE"),
        ((*BOTH, "--table", "none"), "no table 'none'"),
        ((*BOTH, "-k", "("), "-k '(': a word is missing at the end"),
        ((*BOTH, "--device", "cpu"), "--device cpu runs miniatures only; add --scale smoke"),
        ((*BOTH, "--samples", "0"), "--samples 0: give a number of samples above 0"),
        ((*BOTH, "--pairs", "3", "--max-pairs", "2"), "--max-pairs 2 is less than --pairs 3"),
        ((*BOTH, "--tolerance", "speed=8%"), "unknown metric 'speed'"),
        (
            (*BOTH, "--step", "m:f", "--step-arguments", "{layers: 2}"),
            "--step-arguments {layers: 2}: JSON is malformed",
        ),
        ((*BOTH, "--step", "m:f", "--step-arguments", "[2]"), "give a JSON object, as '{\"layers\": 2}'"),
        ((*BOTH, "--step", "m:f", "--step-arguments", '{"a b": 2}'), "'a b', which is not the name of a keyword"),
        ((*BOTH, "--step-arguments", '{"layers": 2}'), "--step-arguments without --step"),
        (("--a", "here", "--b", "current", "--scale", "smoke"), "here: no such file or folder"),
    ],
)
def test_what_is_asked_wrongly_ends_with_status_2_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)

    ran = CliRunner().invoke(app, ["ab", *options])

    assert ran.exit_code == 2
    assert told in ran.stderr
    assert not list(tmp_path.iterdir())
