"""`docs/reliability.md` and the tests agree: what the page names is there, and what is here is on the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
NAMED = sorted(set(re.findall(r"`(\w+/test_\w+\.py::test_\w+)`", PAGE.read_text(encoding="utf-8"))))
OF_THE_TESTS_THEMSELVES = {
    "faults/test_clock.py::test_the_clock_of_these_tests_runs_backwards",
    "faults/test_no_code_from_data.py::test_the_search_finds_what_it_looks_for",
}


def functions(path: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_page_names_is_there(name: str) -> None:
    path, _, function = name.partition("::")

    assert function in functions(TESTS / path)


def test_every_fault_caused_here_is_on_the_page() -> None:
    modules = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    here = {f"faults/{path.name}::{function}" for path in modules for function in functions(path)}

    assert sorted(here - set(NAMED) - OF_THE_TESTS_THEMSELVES) == []


def test_every_line_of_the_page_names_a_test() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    headers = {"| fault | how it is caused | what a user has | test |", "|---|---|---|---|"}

    assert [line for line in lines if line not in headers and "::test_" not in line] == []
