"""`--llmbench-loop` measures the rows in another loop, and keeps their baselines beside the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

ROWS = """
@pytest.mark.parametrize("model", ["qwen-7b-chat"])
def test_speed(llmbench, model):
    llmbench(Case(model=model))

@pytest.mark.parametrize("name", ["mine"])
def test_own(llmbench, name):
    llmbench(Case.custom("steps:build", name=name))

@pytest.mark.parametrize("name", ["trained"])
def test_trained(llmbench, name):
    llmbench(Case(model="qwen-7b-chat", loop="trainer"))
"""


def names(bench: Bench) -> list[tuple[str, str]]:
    return [(result.row, result.measurement.case.loop) for result in bench.results()]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ([], [("qwen-7b-chat", "step"), ("mine", "step"), ("trained", "trainer")]),
        (["--llmbench-loop=trainer"], [("qwen-7b-chat-trainer", "trainer"), ("mine", "step"), ("trained", "trainer")]),
        (["--llmbench-loop=step"], [("qwen-7b-chat", "step"), ("mine", "step"), ("trained-step", "step")]),
    ],
    ids=["as written", "trainer", "step"],
)
def test_rows_whose_loop_is_changed_say_so(bench: Bench, option: list[str], expected: list[tuple[str, str]]) -> None:
    bench.test(ROWS)

    bench.run("--llmbench-missing=record", *option)

    assert names(bench) == expected


def test_baselines_of_both_loops_stand_side_by_side(bench: Bench) -> None:
    bench.test(ROWS)
    bench.record()
    bench.run("--llmbench-loop=trainer", "--llmbench-update=all")

    assert list(bench.baseline().rows) == ["qwen-7b-chat", "qwen-7b-chat-trainer"]
    bench.run().assert_outcomes(passed=3)
    bench.run("--llmbench-loop=trainer").assert_outcomes(passed=3)


def test_a_changed_loop_is_never_held_against_the_baseline_of_the_other(bench: Bench) -> None:
    bench.test(ROWS)
    bench.record()

    run = bench.run("--llmbench-loop=trainer", "-k", "speed")

    run.assert_outcomes(failed=1, deselected=2)
    run.stdout.fnmatch_lines(["speed[[]qwen-7b-chat-trainer]: no baseline is stored for this row*"])


def test_a_run_in_another_loop_can_be_resumed(bench: Bench) -> None:
    bench.test(ROWS)
    bench.run("--llmbench-loop=trainer", "--llmbench-results=r.jsonl", "--llmbench-missing=skip", "-k", "speed")

    bench.run("--llmbench-loop=trainer", "--llmbench-resume=r.jsonl", "--llmbench-missing=skip", "-k", "speed")

    assert bench.asked() == ["qwen-7b-chat"]
