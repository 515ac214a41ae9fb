"""The examples of the documentation: tests in it run, commands in it exist, JSON in it is JSON."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

import pytest_llmbench.plugin.run  # pytester forgets whatever a run of its own was the first to import
from pytest_llmbench.plugin.options import OPTIONS

assert pytest_llmbench.plugin.run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


class Example(NamedTuple):
    """A fenced block of a page."""

    page: str
    number: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Of its file, which the first line may give."""
        match = re.match(r"# (\S+\.py)\n", self.text)
        return Path(match[1]).name if match else f"test_example_{self.number}.py"


def examples(*languages: str) -> Iterator[Example]:
    for page in PAGES:
        for number, match in enumerate(_FENCE.finditer(page.read_text(encoding="utf-8"))):
            if match[1] in languages:
                yield Example(str(page.relative_to(ROOT)), number, match[1], match[2])


def shown(value: object) -> str | None:
    return f"{value.page}:{value.number}" if isinstance(value, Example) else None


def commands() -> list[tuple[str, str]]:
    """Page and line of everything that a reader could type."""
    lines = [(one.page, line.strip()) for one in examples("", "console", "sh") for line in one.text.splitlines()]
    return [(page, line) for page, line in lines if re.match(r"(llmbench|pytest) ", line) and "..." not in line]


@pytest.mark.parametrize("example", list(examples("python")), ids=shown)
def test_a_test_in_the_documentation_passes(
    example: Example, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "def test_" not in example.text and example.name != "conftest.py":
        compile(example.text, example.page, "exec")
        return
    monkeypatch.syspath_prepend(ROOT / "tests" / "plugin")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (pytester.path / example.name).write_text(example.text)
    (pytester.path / "test_none.py").write_text("def test_none():\n    pass\n")

    plugins = ("-p", "pytest_llmbench.plugin", "-p", "canned")
    result = pytester.runpytest_inprocess(*plugins, "--llmbench", "--llmbench-missing=record", "-Werror")

    assert result.ret == 0


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_in_the_documentation_exists(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "pytest":
        flags = {word.partition("=")[0] for word in words if word.startswith("--llmbench")}
        assert flags <= {option.flag for option in OPTIONS}, page
        return
    name, *arguments = words[1:]
    command = getattr(importlib.import_module(f"pytest_llmbench.cli.{name}"), name)
    app = command if isinstance(command, typer.Typer) else typer.Typer()
    if app is not command:
        app.command()(command)
    # Parses, and raises for an unknown option or a missing argument, without carrying it out.
    context = get_command(app).make_context(name, arguments)
    if isinstance(group := context.command, TyperGroup):
        group.commands[arguments[0]].make_context(arguments[0], arguments[1:])


@pytest.mark.parametrize("example", list(examples("json")), ids=shown)
def test_json_in_the_documentation_is_json(example: Example) -> None:
    json.loads(example.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_in_the_documentation_leads_somewhere(page: Path) -> None:
    targets = _LINK.findall(page.read_text(encoding="utf-8"))

    assert [target for target in targets if not (page.parent / target).exists()] == []
