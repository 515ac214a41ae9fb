"""A gate that is broken on purpose fails the tests of the gate: they would notice if it was broken by mistake."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import surroundings
from nursery import Ended, Nursery

if TYPE_CHECKING:
    from tests.faults.conftest import Suite

HERE = Path(__file__).parent
JUDGE = ("tests/unit/test_judge.py",)
ROWS = ("tests/plugin/test_update.py", "-k", "without_a_baseline_fails")
MODES = ("tests/plugin/test_update.py", "-k", "mode_records and missing")
VANISHED = ("tests/unit/test_report_summary.py",)
STRICT = ("tests/plugin/test_switch.py", "-k", "recorded_instead_of_judged")
LOOKS = ("tests/plugin/test_several_processes.py", "-k", "looks_worse or confirm or invalid")
STORE = ("tests/unit/test_baseline_store.py", "-k", "must_not_become")

BROKEN = {
    "the_verdict": JUDGE,
    "the_limits": JUDGE,
    "the_tolerances_of_the_run": JUDGE,
    "the_tolerances_of_the_row": JUDGE,
    "the_direction": JUDGE,
    "equality": JUDGE,
    "gating": JUDGE,
    "comparing_like_with_like": JUDGE,
    "doubt": JUDGE,
    "outcomes": JUDGE,
    "failing": JUDGE,
    "the_row_without_a_baseline": ROWS,
    "the_decision": ROWS,
    "the_choice_of_what_is_recorded": MODES,
    "the_evidence": LOOKS,
    "the_confirmation": LOOKS,
    "the_suspicion": LOOKS,
    "the_list_of_rows_not_run": VANISHED,
    "the_strict_run": STRICT,
    "the_refusal_to_record": STORE,
}
"""What is broken, as a function of `broken_gate`, and the tests that have to notice."""


RunTests = Callable[..., Ended]


@pytest.fixture(scope="module")
def run_tests_of_the_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunTests]:
    """Runs tests over a gate in which one thing is broken."""
    environ = {
        **os.environ,
        "PYTHONPATH": surroundings.python_path(HERE),
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    # The plugin comes first, for what breaks it imports it; what judges is imported by neither.
    plugins = ("-p", "pytest_llmbench.plugin", "-p", "broken_gate", "-p", "no:cacheprovider")
    with Nursery(environ, tmp_path_factory.mktemp("gate") / "said.txt") as nursery:

        def run(broken: str, *selection: str) -> Ended:
            broken_environ = {**environ, "LLMBENCH_TEST_BROKEN": broken}
            return nursery.run(HERE.parents[1], broken_environ, *plugins, "-q", "-x", *selection)

        yield run


@pytest.mark.parametrize("selection", [JUDGE, ROWS, MODES, LOOKS, VANISHED, STRICT, STORE], ids=lambda it: it[-1])
def test_a_gate_in_which_nothing_is_broken_passes(run_tests_of_the_gate: RunTests, selection: tuple[str, ...]) -> None:
    done = run_tests_of_the_gate("nothing", *selection)

    assert done.status == 0, done.text


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_gate_is_noticed(run_tests_of_the_gate: RunTests, broken: str) -> None:
    done = run_tests_of_the_gate(broken, *BROKEN[broken])

    assert done.status == pytest.ExitCode.TESTS_FAILED, done.text
    assert "1 failed" in done.text


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("unavailable-1", "unavailable-2"), ()),
        (("invalid-1", "invalid-2"), ()),
        (("unavailable", "invalid"), ()),
        (("ok-1", "ok-2"), ("--llmbench-missing=skip",)),
        (("ok-1",), ("--deselect=test_speed.py::test_speed[ok-1]",)),
        (("ok-1",), ("-k", "no such test")),
    ],
    ids=["unavailable", "invalid", "both", "skipped", "deselected", "none"],
)
def test_a_strict_suite_in_which_nothing_was_judged_is_not_green(
    suite: Suite, names: tuple[str, ...], options: tuple[str, ...]
) -> None:
    suite.rows(*names)

    assert suite.run("--llmbench-strict", *options).status != 0


def test_rows_that_vanished_from_a_suite_are_reported(suite: Suite) -> None:
    suite.rows("ok-1", "ok-2")
    assert suite.run("--llmbench-missing=record").status == 0
    suite.rows("ok-1")

    ended = suite.run("--llmbench-strict")

    assert "llmbench: speed: not run, of 2 rows with a baseline: ok-2" in ended.text
