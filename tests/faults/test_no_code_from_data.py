"""Nothing that is read from a file is run: no pickle, no eval, and no module is imported because a file names it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

import pytest_llmbench

if TYPE_CHECKING:
    from tests.faults.conftest import Suite

SOURCES = sorted(Path(pytest_llmbench.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle", "runpy"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {("os", "system"), ("os", "popen"), ("torch", "load"), ("numpy", "load"), ("np", "load")}


def dangers(source: Path) -> list[str]:
    """What runs code that it is given, as "line: name"."""
    found = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: {alias.name}" for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.lineno}: {node.module}"] * ((node.module or "").split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {danger}" for danger in _dangers_of_call(node)]
    return found


def _dangers_of_call(call: ast.Call) -> list[str]:
    function, found = call.func, []
    if isinstance(function, ast.Name) and function.id in BUILTINS:
        found.append(function.id)
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        name = (function.value.id, function.attr)
        found += [".".join(name)] * (name in METHODS)
    found += [
        f"{option.arg}={ast.unparse(option.value)}"
        for option in call.keywords
        if option.arg in ("shell", "trust_remote_code", "allow_pickle") and ast.unparse(option.value) != "False"
    ]
    return found


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    source = tmp_path / "dangerous.py"
    source.write_text("import pickle\nfrom yaml import load\neval('1')\ntorch.load('x')\nrun('ls', shell=True)\n")

    assert dangers(source) == ["1: pickle", "2: yaml", "3: eval", "4: torch.load", "5: shell=True"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: "/".join(source.parts[-2:]))
def test_a_module_runs_nothing_that_it_reads(source: Path) -> None:
    assert dangers(source) == []


def test_a_step_that_only_a_file_names_is_not_imported(suite: Suite) -> None:
    suite.rows("ok")
    assert suite.run("--llmbench-missing=record").status == 0
    (suite.folder / "evil.py").write_text("open('evil-was-imported', 'w').close()\nbuild = None")
    baseline = suite.folder / "baselines" / "cpu" / "speed.json"
    stored = msgspec.json.decode(baseline.read_bytes())
    stored["rows"]["ok"]["case"]["step"] = "evil:build"
    stored["rows"]["ok"]["workload_version"] += 1  # at which its hash says nothing
    baseline.write_bytes(msgspec.json.encode(stored))
    results = suite.result_file.read_bytes()
    suite.result_file.write_bytes(results.replace(b"steps:build", b"evil:build"))
    assert b"evil:build" in suite.result_file.read_bytes()

    ended = suite.run(results="--llmbench-resume")

    assert "not comparable" in ended.text
    assert len(suite.results()) == 2  # what the file says is of another case, so that ours was measured
    assert not (suite.folder / "evil-was-imported").exists()


def test_a_terminal_and_a_ci_server_find_nothing_to_obey_in_a_run(suite: Suite) -> None:
    suite.rows("raises_what_is_obeyed", "prints_what_is_obeyed")
    path = suite.folder / "test_speed.py"
    path.write_text(path.read_text().replace(")\ndef", ", ids=['::error::x', '::warning::y'])\ndef"))

    ended = suite.run("--junitxml=out.xml")

    told = ended.text + (suite.folder / "out.xml").read_text()
    assert ended.text.count(r"\x9b31m") >= 2
    assert not {"\x9b", "\u202e"} & {*told}
    assert not [line for line in told.splitlines() if line.strip().startswith("::") or "##[" in line]


@pytest.mark.parametrize("id_", ["<script>alert(1)</script>", "[bold red]loud[/]", "a&b", "{{ 7 * 7 }}"])
def test_a_test_id_is_shown_as_it_is(suite: Suite, id_: str) -> None:
    suite.rows("ok")
    path = suite.folder / "test_speed.py"
    path.write_text(path.read_text().replace(")\ndef", f", ids=[{id_!r}])\ndef"))

    ended = suite.run("--llmbench-missing=record", "--junitxml=out.xml")

    assert ended.status == 0
    assert f"speed[{id_}]: ok, recorded" in ended.text
    assert "<script>" not in (suite.folder / "out.xml").read_text()
