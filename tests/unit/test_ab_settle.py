"""How many pairs a case gets, and which verdict counts, by pairs whose values are set here."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest
from rich.console import Console

import surroundings
from pytest_llmbench.judge.looks import Plan
from pytest_llmbench.reports.comparison.progress import Progress
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Outcome, Process
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.stack import Source
from pytest_llmbench.store.journal import Asked, Journal, Named
from pytest_llmbench.store.pair import Pair, Stage, first_side, merged
from pytest_llmbench.tables.selection import Selected
from pytest_llmbench.trials.pairs import judge_of, measure
from pytest_llmbench.trials.settle import DOUBTED, Settled, Wanted, settle, so_far
from pytest_llmbench.trials.sides import Sides

CASE = Case(model="qwen-7b-chat")
HERE = surroundings.environment(device="cpu", python="3.11", packages={"torch": "2.0"})
PLAN = Plan(screen=2, max_processes=8, looks=2, cases=1)
ASKED = Asked(
    command="ab",
    a=Named("a", {}),
    b=Named("b", {}),
    source=Source(),
    selected=(Selected("t", "r", CASE),),
    workload=Workload(scale="smoke", device="cpu"),
    plan=PLAN,
    timeout_seconds=1.0,
)


def measured(operators: float = 100.0, outcome: Outcome = "ok", loss: float = 2.0) -> Measurement:
    metrics: dict[str, Value] = {"operators_per_sample": operators, "loss_first": loss}
    return Measurement(
        case=CASE,
        workload=ASKED.workload,
        environment=HERE,
        processes=(
            Process(
                outcome=outcome, reason=None if outcome == "ok" else "why", metrics=metrics if outcome == "ok" else {}
            ),
        ),
        measured_at="now",
    )


def pair(stage: Stage = "first", a: Measurement | None = None, b: Measurement | None = None) -> Pair:
    return Pair(stage=stage, first="a", a=a or measured(), b=b or measured())


def step(*pairs: Pair, plan: Plan = PLAN) -> Settled | Wanted:
    return settle(pairs, plan, judge_of(ASKED))


def settled(*pairs: Pair) -> Settled:
    found = step(*pairs)
    assert isinstance(found, Settled)
    return found


MORE = measured(operators=150.0)


def test_what_is_not_settled_is_inconclusive_and_says_what_it_looks_like() -> None:
    found = so_far([pair(b=MORE), pair(b=measured(outcome="crashed"))], judge_of(ASKED))

    assert found is not None
    assert (found.verdict.status, len(found.b.processes)) == ("inconclusive", 1)
    assert found.verdict.reason.startswith("regressed so far (")


def test_without_a_good_pair_nothing_is_known_so_far() -> None:
    assert so_far([pair(b=measured(outcome="crashed"))], judge_of(ASKED)) is None


def test_the_sides_take_turns_in_going_first() -> None:
    assert [first_side(number) for number in range(4)] == ["a", "b", "a", "b"]


def test_a_case_gets_the_pairs_of_the_screening() -> None:
    assert step() == step(pair()) == Wanted("first")
    assert settled(pair(), pair()).verdict.status == "unchanged"


def test_what_moved_is_not_settled_before_a_fresh_pair_agrees() -> None:
    worse = [pair(b=MORE)] * 2

    assert step(*worse) == Wanted("fresh")
    verdict = settled(*worse, pair("fresh", b=MORE)).verdict
    assert verdict.status == "regressed"
    assert verdict.reason.endswith("confirmed by 1 fresh pair")


def test_what_improved_is_confirmed_as_well() -> None:
    better = [pair(a=MORE)] * 2

    assert step(*better) == Wanted("fresh")
    assert settled(*better, pair("fresh", a=MORE)).verdict.status == "improved"


def test_a_suspect_that_fresh_pairs_do_not_confirm_is_what_they_say() -> None:
    verdict = settled(*[pair(b=MORE)] * 2, pair("fresh")).verdict

    assert verdict.status == "unchanged"
    assert f"{DOUBTED} regressed, 1 fresh ones do not" in verdict.reason


def test_a_plan_without_looks_takes_the_first_verdict() -> None:
    found = step(pair(b=MORE), plan=Plan(screen=1, max_processes=1, looks=0))

    assert isinstance(found, Settled)
    assert found.verdict.status == "regressed"


def test_a_process_that_failed_once_is_measured_again() -> None:
    crash = pair(b=measured(outcome="crashed"))

    assert step(pair(), crash) == Wanted("first")
    assert settled(pair(), crash, pair()).verdict.status == "unchanged"


def test_a_process_that_fails_twice_fails() -> None:
    verdict = settled(*[pair(b=measured(outcome="crashed"))] * 2).verdict

    assert verdict.status == "regressed"
    assert "crashed" in verdict.reason


def test_what_fails_on_both_sides_has_not_regressed() -> None:
    crash = measured(outcome="crashed")
    verdict = settled(*[pair(a=crash, b=crash)] * 2).verdict

    assert verdict.status == "inconclusive"
    assert verdict.reason == "crashed on both sides: why"


def test_a_missing_library_is_asked_for_once() -> None:
    found = settled(pair(a=measured(outcome="unavailable")))

    assert (found.a.outcome, found.b.outcome) == ("unavailable", "ok")


def test_what_stayed_invalid_in_two_pairs_is_settled() -> None:
    invalid = pair(b=measured(outcome="invalid"))

    assert step(invalid, pair()) == Wanted("first")
    assert settled(invalid, pair(), pair()).verdict.status == "unchanged"
    verdict = settled(invalid, invalid).verdict
    assert (verdict.status, verdict.failed) == ("inconclusive", True)


def test_the_peak_is_looked_at_in_the_first_good_pair_of_a_stage() -> None:
    crash = measured(outcome="crashed")
    coming = iter([(measured(), crash), (measured(), MORE), (measured(), MORE), (measured(), MORE)])
    explained = []

    class Canned:
        def pair(self, *_: object, explain_peak: bool) -> tuple[Measurement, Measurement]:
            explained.append(explain_peak)
            return next(coming)

    progress = Progress(Console(quiet=True))
    progress.start("t[r]")
    measure(
        "t[r]",
        CASE,
        Journal.begin(None, ASKED),
        lambda: cast("Sides", Canned()),
        judge=judge_of(ASKED),
        progress=progress,
    )

    assert explained == [True, True, False, True]


@pytest.mark.parametrize("outcome", ["oom", "crashed", "timeout"])
def test_a_side_that_failed_has_the_outcome_of_its_failure(outcome: Outcome) -> None:
    a, b = merged([pair(b=measured(outcome=outcome)), pair()])

    assert (a.outcome, b.outcome) == ("ok", outcome)
    assert len(a.processes) == len(b.processes) == 2


def test_partners_stand_at_the_same_place_on_both_sides() -> None:
    pairs = [pair(a=measured(value), b=measured(value + 0.5)) for value in (3.0, 1.0, 2.0)]
    a, b = merged(pairs)

    assert [process.metrics["operators_per_sample"] for process in a.processes] == [3.0, 1.0, 2.0]
    assert [process.metrics["operators_per_sample"] for process in b.processes] == [3.5, 1.5, 2.5]


def test_no_pair_has_no_measurement() -> None:
    with pytest.raises(ValueError, match="no pair"):
        merged([])


def test_a_pair_survives_its_json() -> None:
    one = pair("fresh", b=MORE)

    assert msgspec.json.decode(msgspec.json.encode(one), type=Pair) == one
