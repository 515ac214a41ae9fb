"""How many observations a row gets, and when its verdict is final, by observations whose verdicts are set here."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from pytest_llmbench.judge.decision import ALPHA, LOOKS, PAIRS, ROW_ERROR, SESSIONS, decide, difference
from pytest_llmbench.judge.plan import DOUBTED, Kind, Plan, Settled, Wanted, is_suspect, settle, so_far
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.schema.metrics import METRICS, Noise

PLAN = Plan(max_processes=18, looks=2, screen=3)
ONE: Kind[str] = Kind("process", lambda outcome: (outcome,), failures=1, repeats=0)
TWO: Kind[str] = Kind("pair", lambda outcome: (outcome,), failures=2, repeats=1)


def row(status: Status, *, p_value: float | None = 1e-9) -> RowVerdict:
    """A row whose status comes from one speed, or from a limit if *p_value* is None."""
    metric = MetricVerdict(metric="m", status=status, p_value=p_value, gates=True, reason="r")
    return RowVerdict(status=status, metrics=(metric,), reason="why")


OPEN = row("undecided", p_value=0.01)
SLOWER = row("regressed")
MORE = row("regressed", p_value=None)
SAME = row("unchanged")


def after(plan: Plan, kind: Kind[str], verdicts: dict[int, RowVerdict], *taken: str) -> Settled[str] | Wanted:
    """What to do, where the verdict depends on the number of observations alone."""
    return settle(plan, kind, taken, lambda some: verdicts[len(some)])


def settled(plan: Plan, kind: Kind[str], verdicts: dict[int, RowVerdict], *taken: str) -> Settled[str]:
    found = after(plan, kind, verdicts, *taken)
    assert isinstance(found, Settled)
    return found


def good(count: int) -> list[str]:
    return ["ok"] * count


def test_a_row_is_screened_first() -> None:
    assert after(PLAN, ONE, {}) == Wanted(3, confirms=False)
    assert after(PLAN, ONE, {}, "ok") == Wanted(2, confirms=False)


@pytest.mark.parametrize("screening", [SAME, row("improved"), row("no baseline"), row("not comparable")])
def test_what_is_no_suspect_is_settled_by_its_screening(screening: RowVerdict) -> None:
    assert settled(PLAN, ONE, {3: screening}, *good(3)) == Settled(screening, ("ok",) * 3)


@pytest.mark.parametrize(
    "screening",
    [
        pytest.param(MORE, id="beyond-a-limit"),
        pytest.param(RowVerdict(status="regressed", reason="out of memory"), id="outcome"),
        pytest.param(row("unmeasured", p_value=None), id="not-measured"),
    ],
)
def test_what_fails_for_something_else_than_noise_is_settled_by_its_screening(screening: RowVerdict) -> None:
    assert settled(PLAN, ONE, {3: screening}, *good(3)).verdict == screening
    assert screening.failed


def test_a_speed_and_a_limit_that_both_regressed_are_settled_by_the_limit() -> None:
    both = RowVerdict(status="regressed", metrics=(*SLOWER.metrics, *MORE.metrics), reason="r")

    assert not is_suspect(both)


@pytest.mark.parametrize("screening", [OPEN, SLOWER])
def test_a_suspect_gets_more_observations(screening: RowVerdict) -> None:
    assert after(PLAN, ONE, {3: screening}, *good(3)) == Wanted(8, confirms=True)
    assert after(PLAN, ONE, {3: screening}, *good(7)) == Wanted(4, confirms=True)


def test_a_suspect_is_judged_by_all_of_its_observations() -> None:
    found = settled(PLAN, ONE, {3: SLOWER, 11: SAME}, *good(11))

    assert (found.verdict.status, found.verdict.reason) == ("unchanged", "why; with 8 more processes")
    assert len(found.taken) == 11


def test_what_is_still_open_gets_the_next_look_and_then_no_more() -> None:
    verdicts = {3: OPEN, 11: OPEN, 18: OPEN}

    assert after(PLAN, ONE, verdicts, *good(11)) == Wanted(7, confirms=True)
    last = settled(PLAN, ONE, verdicts, *good(18)).verdict
    assert (last.status, last.failed) == ("undecided", False)
    assert last.reason == "why; with 15 more processes"


def test_observations_beyond_the_plan_are_not_looked_at() -> None:
    assert len(settled(PLAN, ONE, {3: SAME}, *good(9)).taken) == 3


def test_without_looks_the_screening_is_final() -> None:
    assert settled(Plan(), ONE, {1: OPEN}, "ok").verdict == OPEN
    assert settled(Plan(), TWO, {1: MORE}, "ok").verdict == MORE


def test_a_process_that_fails_fails_its_row() -> None:
    found = settled(PLAN, ONE, {2: MORE}, "ok", "crashed")

    assert found.taken == ("ok", "crashed")


def test_a_pair_that_failed_once_is_measured_again() -> None:
    assert after(PLAN, TWO, {}, "ok", "crashed") == Wanted(2, confirms=False)
    assert settled(PLAN, TWO, {3: SAME}, "ok", "crashed", "ok", "ok").verdict == SAME
    assert settled(PLAN, TWO, {3: MORE}, "crashed", "ok", "crashed").taken == ("ok", "crashed", "crashed")


@pytest.mark.parametrize("outcome", ["unavailable", "invalid"])
def test_what_another_try_would_not_change_is_not_tried_again(outcome: str) -> None:
    assert isinstance(after(PLAN, TWO, {1: MORE}, outcome), Settled)


@pytest.mark.parametrize("moved", ["regressed", "improved"])
def test_a_count_that_moved_in_pairs_is_looked_at_once_more(moved: Status) -> None:
    more = row(moved, p_value=None)

    assert after(PLAN, TWO, {3: more}, *good(3)) == Wanted(1, confirms=True)
    found = settled(PLAN, TWO, {3: more, 1: more, 4: more}, *good(4)).verdict
    assert (found.status, found.reason) == (moved, "why; with 1 more pair")


def test_a_count_that_the_next_pair_does_not_repeat_has_not_moved() -> None:
    found = settled(PLAN, TWO, {3: MORE, 1: SAME, 4: MORE}, *good(4)).verdict

    assert found.status == "unchanged"
    assert found.reason == f"why; {DOUBTED} regressed, 1 more pair did not"


@pytest.mark.parametrize(("processes", "looks", "screen"), [(9, 2, 1), (10, 1, 1), (7, 2, 5), (1, 0, 1)])
def test_the_looks_spend_what_the_screening_leaves(processes: int, looks: int, screen: int) -> None:
    plan = Plan(max_processes=processes, looks=looks, screen=screen)

    shares = [plan.share(look) for look in range(looks)]
    assert sum(shares) == (processes - screen if looks else 0)
    assert all(share >= 1 for share in shares)


def test_all_looks_at_a_row_together_have_the_error_of_a_row() -> None:
    assert pytest.approx(0.0001) == ROW_ERROR == ALPHA * LOOKS


@pytest.mark.parametrize(("processes", "looks", "screen"), [(2, 2, 1), (3, 0, 4)])
def test_a_plan_that_has_not_enough_processes_is_refused(processes: int, looks: int, screen: int) -> None:
    with pytest.raises(ValueError, match=f"{processes} processes are too few"):
        Plan(max_processes=processes, looks=looks, screen=screen)


def test_what_cannot_be_measured_to_the_end_is_open_and_says_what_it_looks_like() -> None:
    found = so_far(ONE, ["ok", "crashed"], lambda _: SLOWER, "the time is up")

    assert found is not None
    assert (found.verdict.status, found.taken) == ("undecided", ("ok",))
    assert found.verdict.reason == "regressed so far (why), and the time is up"


def test_what_is_unmeasured_so_far_stays_so_and_fails() -> None:
    found = so_far(ONE, ["ok", "crashed"], lambda _: row("unmeasured", p_value=None), "the time is up")

    assert found is not None
    assert (found.verdict.status, found.verdict.failed) == ("unmeasured", True)


def test_without_a_good_observation_nothing_is_known_so_far() -> None:
    assert so_far(ONE, ["crashed"], lambda _: SLOWER, "why") is None


Judged = Callable[[Sequence[float]], RowVerdict]


def judged_in_pairs(noise: Noise) -> Judged:
    """The verdict on differences within pairs."""

    def judged(differences: Sequence[float]) -> RowVerdict:
        harm = difference(PAIRS, [0.0] * len(differences), differences, noise)
        return row(decide(harm, METRICS["samples_per_second"], ALPHA).status)

    return judged


def drive(plan: Plan, judged: Judged, measure: Callable[[int], list[float]]) -> Settled[float]:
    """The loop of a trial over numbers."""
    kind: Kind[float] = Kind("pair", lambda _: ("ok",), failures=2, repeats=1)
    taken: list[float] = []
    while isinstance(step := settle(plan, kind, taken, judged), Wanted):
        taken += measure(step.count)
    return step


QUIET = Noise(process_sd=0.005, process_df=20, session_sd=0, session_df=1)


@pytest.mark.parametrize(("slow_down", "least", "most"), [(0.0, 0.0, 0.0), (0.02, 0.95, 1.0), (0.03, 0.99, 1.0)])
def test_looks_find_what_matters_and_nothing_else(slow_down: float, least: float, most: float) -> None:
    """Processes with a standard deviation of 0.5 %."""
    rng = random.Random(31)
    plan = Plan(max_processes=19, looks=2, screen=3)

    def measure(count: int) -> list[float]:
        return [rng.gauss(slow_down, 0.005 * 2**0.5) for _ in range(count)]

    failed = sum(drive(plan, judged_in_pairs(QUIET), measure).verdict.failed for _ in range(400)) / 400
    assert least <= failed <= most


def test_rows_that_did_not_move_take_few_more_pairs_than_their_screening() -> None:
    rng = random.Random(32)
    plan = Plan(max_processes=19, looks=2, screen=3)

    def measure(count: int) -> list[float]:
        return [rng.gauss(0, 0.005 * 2**0.5) for _ in range(count)]

    spent = [len(drive(plan, judged_in_pairs(QUIET), measure).taken) for _ in range(400)]
    assert sum(spent) / 400 < 4


def test_one_slow_process_in_the_screening_is_outvoted_by_the_others() -> None:
    """The heavy tail of a machine: a process that is 4 % slower by itself, between eight that are not."""
    metric, noise = METRICS["device_busy_seconds_per_sample"], METRICS["device_busy_seconds_per_sample"].prior
    kind: Kind[float] = Kind("process", lambda _: ("ok",), failures=1, repeats=0)

    def judged(now: Sequence[float]) -> RowVerdict:
        return row(decide(difference(SESSIONS, [0.0], now, noise["device-bound"]), metric, ALPHA).status)

    assert judged([0.04]).failed
    found = settle(Plan(max_processes=9, looks=2), kind, [0.04, *[0.001, -0.001] * 4], judged)
    assert isinstance(found, Settled)
    assert not found.verdict.failed


def beside(verdict: RowVerdict, *, gates: bool) -> RowVerdict:
    """The same row with a count that moved, too."""
    count = MetricVerdict(metric="n", status=verdict.status, gates=gates, reason="r")
    return RowVerdict(status=verdict.status, metrics=(*verdict.metrics, count), reason="why")


def test_a_count_that_does_not_gate_leaves_a_slower_row_a_suspect() -> None:
    assert is_suspect(beside(SLOWER, gates=False))
    assert not is_suspect(beside(SLOWER, gates=True))


def test_a_row_without_a_metric_that_counts_is_no_suspect() -> None:
    assert not is_suspect(RowVerdict(status="regressed", reason="crashed"))


def test_a_better_count_and_a_slower_speed_that_is_not_sure_are_by_no_noise() -> None:
    better = row("improved", p_value=None)

    assert is_suspect(better, repeats=1)
    assert settled(PLAN, TWO, {3: better, 4: better, 1: better}, *good(4)).verdict.reason.endswith("with 1 more pair")


def test_a_speed_that_pairs_improved_gets_a_whole_look() -> None:
    better = row("improved", p_value=0.999)

    assert after(PLAN, TWO, {3: better}, *good(3)) == Wanted(8, confirms=True)


def test_a_look_that_has_some_of_its_observations_wants_the_others() -> None:
    assert after(PLAN, ONE, {3: OPEN}, *good(5)) == Wanted(6, confirms=True)


def test_more_than_one_more_observation_is_told_in_the_plural() -> None:
    assert settled(PLAN, ONE, {3: OPEN, 11: SAME}, *good(11)).verdict.reason == "why; with 8 more processes"
