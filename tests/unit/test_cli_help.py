"""What `--help` prints of every command."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pytest_llmbench.cli import app

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
_BRACKETS = re.compile(r"[\w-]*\[[^\]]*\]")


def sources(name: str) -> Iterator[str]:
    command = COMMANDS[name]
    yield command.help or ""
    for parameter in command.params:
        yield getattr(parameter, "help", None) or ""
        yield str(parameter.metavar or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_keeps_its_square_brackets(name: str) -> None:
    written = [part for text in sources(name) for part in _BRACKETS.findall(text)]
    shown = re.sub(r"\s+", "", CliRunner().invoke(app, [name, "--help"]).output)

    assert [part for part in written if re.sub(r"\s+", "", part) not in shown] == []


def test_some_help_has_square_brackets() -> None:
    assert {name for name in COMMANDS if _BRACKETS.search(" ".join(sources(name)))} >= {"ab", "bisect", "replay"}
