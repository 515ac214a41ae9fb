"""How many processes a row gets, and when its verdict is final."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pytest_llmbench.judge.decision import ALPHA, PAIRS, decide, difference
from pytest_llmbench.judge.looks import Plan, is_suspect, next_step
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.schema.metrics import METRICS, Noise

PLAN = Plan(max_processes=18, looks=2, screen=3)


def row(status: Status, *, undecided: bool = False, p_value: float | None = 1e-9) -> RowVerdict:
    """A row whose status comes from one speed, or from a limit if *p_value* is None."""
    metric = MetricVerdict(metric="m", status=status, undecided=undecided, p_value=p_value, gates=True, reason="r")
    return RowVerdict(status=status, metrics=(metric,), undecided=undecided, reason="why")


OPEN = row("inconclusive", undecided=True, p_value=0.01)


@pytest.mark.parametrize("screening", [row("unchanged"), row("improved"), row("no baseline"), row("not comparable")])
def test_what_is_no_suspect_is_settled_by_its_screening(screening: RowVerdict) -> None:
    assert next_step(PLAN, screening) == (screening, 0)


@pytest.mark.parametrize(
    "screening",
    [
        pytest.param(row("regressed", p_value=None), id="beyond-a-limit"),
        pytest.param(RowVerdict(status="regressed", reason="out of memory"), id="outcome"),
        pytest.param(row("inconclusive", p_value=None), id="not-measured"),
    ],
)
def test_what_fails_for_something_else_than_noise_is_settled_by_its_screening(screening: RowVerdict) -> None:
    assert next_step(PLAN, screening) == (screening, 0)
    assert screening.failed


def test_a_speed_and_a_limit_that_both_regressed_are_settled_by_the_limit() -> None:
    both = RowVerdict(
        status="regressed", metrics=(*row("regressed").metrics, *row("regressed", p_value=None).metrics), reason="r"
    )

    assert not is_suspect(both)


@pytest.mark.parametrize("screening", [OPEN, row("regressed")])
def test_a_suspect_gets_fresh_processes(screening: RowVerdict) -> None:
    assert next_step(PLAN, screening) == (None, 8)


def test_a_suspect_fails_only_if_fresh_processes_say_so() -> None:
    assert next_step(PLAN, row("regressed"), [row("unchanged")]).verdict == RowVerdict(
        status="unchanged", metrics=row("unchanged").metrics, reason="why; by 8 fresh processes"
    )
    confirmed = next_step(PLAN, row("regressed"), [row("regressed")]).verdict
    assert confirmed is not None
    assert confirmed.failed


def test_what_is_still_open_gets_the_next_look_and_then_no_more() -> None:
    assert next_step(PLAN, OPEN, [OPEN]) == (None, 7)
    last = next_step(PLAN, OPEN, [OPEN, OPEN]).verdict
    assert last is not None
    assert (last.status, last.failed) == ("inconclusive", False)
    assert last.reason == "why; by 15 fresh processes"


def test_without_looks_the_screening_is_final() -> None:
    assert next_step(Plan(), OPEN) == (OPEN, 0)
    assert next_step(Plan(), row("regressed")) == (row("regressed"), 0)


@pytest.mark.parametrize(("processes", "looks", "screen"), [(9, 2, 1), (10, 3, 1), (7, 2, 5), (1, 0, 1)])
def test_the_looks_spend_what_the_screening_leaves(processes: int, looks: int, screen: int) -> None:
    plan = Plan(max_processes=processes, looks=looks, screen=screen)

    shares = [plan.fresh(look) for look in range(looks)]
    assert sum(shares) == (processes - screen if looks else 0)
    assert all(share >= 1 for share in shares)


def test_every_look_at_every_row_has_an_equal_share_of_the_error() -> None:
    assert Plan(max_processes=9, looks=2, cases=50, error=0.01).alpha == pytest.approx(0.0001)
    assert Plan().alpha == ALPHA


@pytest.mark.parametrize(("processes", "looks", "screen"), [(2, 2, 1), (3, 0, 4)])
def test_a_plan_that_has_not_enough_processes_is_refused(processes: int, looks: int, screen: int) -> None:
    with pytest.raises(ValueError, match=f"{processes} processes are too few"):
        Plan(max_processes=processes, looks=looks, screen=screen)


def drive(plan: Plan, measure: Callable[[int], list[float]]) -> tuple[RowVerdict, int]:
    """The loop of a gate, over the differences of pairs; the verdict and the pairs it took."""
    metric = METRICS["samples_per_second"]
    noise = Noise(process_sd=0.005, process_df=20, session_sd=0, session_df=1)

    def judged(differences: list[float]) -> RowVerdict:
        harm = difference(PAIRS, [0.0] * len(differences), differences, noise)
        status = decide(harm, metric, plan.alpha).status
        return row(status, undecided=status == "inconclusive")

    screening = judged(measure(plan.screen))
    fresh: list[float] = []
    looks: list[RowVerdict] = []
    while (step := next_step(plan, screening, looks)).verdict is None:
        fresh += measure(step.processes)
        looks.append(judged(fresh))
    return step.verdict, plan.screen + len(fresh)


@pytest.mark.parametrize(("slow_down", "least", "most"), [(0.0, 0.0, 0.0), (0.02, 0.95, 1.0), (0.03, 0.99, 1.0)])
def test_looks_find_what_matters_and_nothing_else(slow_down: float, least: float, most: float) -> None:
    """Processes with a standard deviation of 0.5 %, a hundred rows that share the error."""
    rng = random.Random(31)
    plan = Plan(max_processes=19, looks=2, screen=3)

    def measure(count: int) -> list[float]:
        return [rng.gauss(slow_down, 0.005 * 2**0.5) for _ in range(count)]

    failed = sum(drive(plan, measure)[0].failed for _ in range(400)) / 400
    assert least <= failed <= most


def test_rows_that_did_not_move_take_few_more_processes_than_their_screening() -> None:
    rng = random.Random(32)
    plan = Plan(max_processes=19, looks=2, screen=3)
    spent = [drive(plan, lambda count: [rng.gauss(0, 0.005 * 2**0.5) for _ in range(count)])[1] for _ in range(400)]
    assert sum(spent) / 400 < 4
