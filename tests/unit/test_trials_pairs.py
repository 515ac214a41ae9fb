"""How many pairs a case gets, and which verdict counts, by pairs whose values are set here."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
import pytest
from rich.console import Console

import measurements
import surroundings
from measurements import is_open
from pytest_llmbench.judge.plan import DOUBTED, Plan, Settled, Wanted, settle
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import PackageChange
from pytest_llmbench.schema.measurement import Measurement, Outcome
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.stack import Source
from pytest_llmbench.store.journal import Asked, Journal, Named, Taken
from pytest_llmbench.store.pair import Pair, first_side, merged
from pytest_llmbench.tables.selection import Selected
from pytest_llmbench.trials.pairs import Held, comparison_of, held_so_far, judge_of, measure
from pytest_llmbench.trials.progress import Progress
from pytest_llmbench.trials.sides import Sides
from pytest_llmbench.trials.trial import PAIR
from told import Told

CASE = Case(model="qwen-7b-chat")
HERE = surroundings.environment(device="cpu", python="3.11", packages={"torch": "2.0"})
PLAN = Plan(screen=2, max_processes=8, looks=2)
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
    good = outcome == "ok"
    process = measurements.good({"operators_per_sample": operators, "loss_first": loss})
    return measurements.measured(
        process if good else measurements.ended(outcome), case=CASE, workload=ASKED.workload, environment=HERE
    )


def pair(a: Measurement | None = None, b: Measurement | None = None) -> Pair:
    return Pair(first="a", a=a or measured(), b=b or measured())


def journal(*pairs: Pair, plan: Plan = PLAN) -> Journal:
    begun = Journal.begin(None, msgspec.structs.replace(ASKED, plan=plan))
    for one in pairs:
        begun.add(Taken(case="t[r]", pair=one))
    return begun


def step(*pairs: Pair) -> Settled[Pair] | Wanted:
    return settle(PLAN, PAIR, pairs, lambda some: judge_of(ASKED)(*merged(some)))


def settled(*pairs: Pair, plan: Plan = PLAN) -> Held:
    found, is_settled = held_so_far(journal(*pairs, plan=plan), "t[r]", judge_of(ASKED))
    assert is_settled
    assert found is not None
    return found


MORE = measured(operators=150.0)


def test_what_is_not_settled_is_undecided_and_says_what_it_looks_like() -> None:
    found, is_settled = held_so_far(journal(pair(b=MORE), pair(b=measured(outcome="crashed"))), "t[r]", judge_of(ASKED))

    assert not is_settled
    assert found is not None
    assert (found.verdict.status, len(found.b.processes)) == ("undecided", 1)
    assert found.verdict.reason.startswith("regressed so far (")


def test_without_a_good_pair_nothing_is_known_so_far() -> None:
    assert held_so_far(journal(pair(b=measured(outcome="crashed"))), "t[r]", judge_of(ASKED)) == (None, False)


def test_the_sides_take_turns_in_going_first() -> None:
    assert [first_side(number) for number in range(4)] == ["a", "b", "a", "b"]


def test_a_case_gets_the_pairs_of_the_screening() -> None:
    assert (step(), step(pair())) == (Wanted(2, confirms=False), Wanted(1, confirms=False))
    assert settled(pair(), pair()).verdict.status == "unchanged"


def test_what_moved_is_not_settled_before_a_fresh_pair_agrees() -> None:
    worse = [pair(b=MORE)] * 2

    assert step(*worse) == Wanted(1, confirms=True)
    verdict = settled(*worse, pair(b=MORE)).verdict
    assert verdict.status == "regressed"
    assert verdict.reason.endswith("; with 1 more pair")


def test_what_improved_is_confirmed_as_well() -> None:
    better = [pair(a=MORE)] * 2

    assert step(*better) == Wanted(1, confirms=True)
    assert settled(*better, pair(a=MORE)).verdict.status == "improved"


def test_a_suspect_that_fresh_pairs_do_not_confirm_is_what_they_say() -> None:
    verdict = settled(*[pair(b=MORE)] * 2, pair()).verdict

    assert verdict.status == "unchanged"
    assert f"{DOUBTED} regressed, 1 more pair did not" in verdict.reason


def test_a_plan_without_looks_takes_the_first_verdict() -> None:
    assert settled(pair(b=MORE), plan=Plan()).verdict.status == "regressed"


def test_a_process_that_failed_once_is_measured_again() -> None:
    crash = pair(b=measured(outcome="crashed"))

    assert step(pair(), crash) == Wanted(1, confirms=False)
    assert settled(pair(), crash, pair()).verdict.status == "unchanged"


def test_a_process_that_fails_twice_fails() -> None:
    verdict = settled(*[pair(b=measured(outcome="crashed"))] * 2).verdict

    assert verdict.status == "regressed"
    assert "crashed" in verdict.reason


def test_what_fails_on_both_sides_has_not_regressed() -> None:
    crash = measured(outcome="crashed")
    verdict = settled(*[pair(a=crash, b=crash)] * 2).verdict

    assert verdict.status == "unmeasured"
    assert verdict.reason == "crashed on both sides: why"


def test_a_missing_library_is_asked_for_once() -> None:
    found = settled(pair(a=measured(outcome="unavailable")))

    assert (found.a.outcome, found.b.outcome) == ("unavailable", "ok")


def test_what_stayed_invalid_however_often_it_was_measured_is_settled() -> None:
    verdict = settled(pair(b=measured(outcome="invalid"))).verdict

    assert (verdict.status, verdict.failed) == ("unmeasured", True)


def test_the_peak_is_looked_at_until_a_pair_is_good() -> None:
    crash = measured(outcome="crashed")
    coming = iter([(measured(), crash), (measured(), MORE), (measured(), MORE), (measured(), MORE)])
    explained = []

    class Canned:
        def pair(self, *_: object, with_profile: bool) -> tuple[Measurement, Measurement]:
            explained.append(with_profile)
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

    assert explained == [True, True, False, False]


class Canned:
    """Both sides, whose pairs are set here."""

    def __init__(self, *pairs: Pair) -> None:
        self.left = list(pairs)
        self.asked: list[tuple[object, ...]] = []

    def pair(self, *asked: object, with_profile: bool) -> tuple[Measurement, Measurement]:
        self.asked.append(asked)
        one = self.left.pop(0)
        return one.a, one.b


def measured_by(canned: Canned, begun: Journal, progress: Told) -> Held:
    return measure("t[r]", CASE, begun, lambda: cast("Sides", canned), judge=judge_of(ASKED), progress=progress)


def test_each_pair_is_told_and_the_verdict_at_the_end() -> None:
    progress = Told()

    measured_by(Canned(*[pair(b=MORE)] * 3), journal(), progress)

    assert progress.calls == [
        ("pair", 1, False),
        ("pair", 2, False),
        ("pair", 3, True),
        ("end", "regressed, 3 pairs"),
    ]


def test_a_missing_library_is_told_as_such() -> None:
    progress = Told()

    measured_by(Canned(pair(b=measured(outcome="unavailable"))), journal(), progress)

    assert progress.calls[-1] == ("end", "unavailable, 1 pair")


def test_every_pair_is_asked_for_with_its_case_and_who_goes_first() -> None:
    canned, progress = Canned(*[pair()] * 2), Told()

    measured_by(canned, journal(), progress)

    assert canned.asked == [(CASE, ASKED.workload, side, progress.phase) for side in ("a", "b")]


def test_every_pair_is_written_down_with_who_went_first() -> None:
    begun = journal()

    measured_by(Canned(pair(), pair(b=MORE)), begun, Told())

    assert [(one.first, one.a, one.b) for one in begun.pairs("t[r]")] == [
        ("a", measured(), measured()),
        ("b", measured(), MORE),
    ]


def test_pairs_that_were_written_down_need_not_be_measured() -> None:
    canned = Canned(pair())

    held = measured_by(canned, journal(pair()), Told())

    assert (len(canned.asked), len(held.a.processes), len(held.b.processes)) == (1, 2, 2)


def test_a_comparison_shows_settled_and_open_cases_and_names_the_open_ones() -> None:
    asked = msgspec.structs.replace(
        ASKED,
        a=Named("old", {"peft": "1", "torch": "1"}),
        b=Named("new", {"peft": "2", "torch": "1"}),
        selected=tuple(Selected("t", name, CASE) for name in ("done", "begun", "next")),
    )
    begun = Journal.begin(None, asked)
    for case in ("t[done]", "t[done]", "t[begun]"):
        begun.add(Taken(case=case, pair=pair()))

    found = comparison_of(begun, judge_of(asked), ["no GPU for t[four]"])

    assert [(row.name, row.pairs, is_open(row.verdict)) for row in found.rows] == [
        ("t[done]", 2, False),
        ("t[begun]", 1, True),
    ]
    assert found.left_out == ("no GPU for t[four]", "not measured to the end: t[begun], t[next]")
    assert (found.a, found.b) == ("old", "new")
    assert (found.changes, found.num_unchanged) == ((PackageChange("peft", "1", "2"),), 1)


@pytest.mark.parametrize(
    ("device", "samples", "told"),
    [
        ("cpu", 16, "a CPU, scale smoke, 16 samples"),
        ("NVIDIA H200", "full", "NVIDIA H200, scale smoke, whole epoch"),
        (None, 4, "scale smoke, 4 samples"),
    ],
)
def test_a_comparison_tells_on_what_it_was_measured(device: str | None, samples: int, told: str) -> None:
    where = None if device is None else surroundings.environment(device=device)
    here = msgspec.structs.replace(measured(), environment=where)
    nowhere = msgspec.structs.replace(measured(), environment=None)
    workload = msgspec.structs.replace(ASKED.workload, samples=samples)
    begun = Journal.begin(None, msgspec.structs.replace(ASKED, workload=workload))
    begun.add(Taken(case="t[r]", pair=pair(a=nowhere, b=here)))

    assert comparison_of(begun, judge_of(ASKED)).measured_on == told


def test_an_environment_below_the_current_folder_is_named_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = msgspec.structs.replace(ASKED, a=Named(str(tmp_path / "old.txt"), {}), b=Named("/elsewhere/new.txt", {}))
    begun = Journal.begin(None, asked)

    found = comparison_of(begun, judge_of(asked))

    assert (found.a, found.b) == ("old.txt", "/elsewhere/new.txt")


def test_a_tolerance_that_was_asked_for_lets_a_count_move() -> None:
    judge = judge_of(msgspec.structs.replace(ASKED, tolerances={"operators_per_sample": Tolerance(relative=0.6)}))

    assert judge(measured(), MORE).status == "unchanged"


@pytest.mark.parametrize("outcome", ["crashed", "timeout", "diverged", "invalid"])
def test_what_fails_on_both_sides_alike_says_so_and_is_not_green(outcome: Outcome) -> None:
    failed = measured(outcome=outcome)
    verdict = judge_of(ASKED)(failed, failed)

    assert (verdict.reason, verdict.failed) == (f"{outcome} on both sides: why", True)


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
    one = pair(b=MORE)

    assert msgspec.json.decode(msgspec.json.encode(one), type=Pair) == one


def test_a_pair_that_an_earlier_version_wrote_can_be_read() -> None:
    """It said in which stage the pair was measured, which now follows from its place."""
    written = msgspec.json.decode(msgspec.json.encode(pair())) | {"stage": "fresh"}

    assert msgspec.json.decode(msgspec.json.encode(written), type=Pair) == pair()
