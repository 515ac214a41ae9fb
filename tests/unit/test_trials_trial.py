"""The loop of a trial: what is wanted is observed until the row is settled, or nothing more can be had."""

from __future__ import annotations

from collections.abc import Sequence

from measurements import ended, good, open_row
from pytest_llmbench.judge.plan import Plan, Settled, Wanted
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.trials.trial import PAIR, PAIRED, PROCESS, STORED, run

GOOD, OPEN = good({}), open_row()
PLAN = Plan(screen=2, max_processes=6, looks=1)


class Watched:
    """Judges by a status for each number of observations, and keeps what is wanted."""

    def __init__(self, open_until: int, each: Process = GOOD) -> None:
        self.wanted: list[Wanted] = []
        self.each = each
        self.open_until = open_until

    def judge(self, some: Sequence[Process]) -> RowVerdict:
        still = len(some) < self.open_until
        return OPEN if still else RowVerdict(status="unchanged", reason="r")

    def observe(self, wanted: Wanted) -> list[Process]:
        self.wanted.append(wanted)
        return [self.each] * wanted.count


def test_a_row_is_observed_until_it_is_settled() -> None:
    watched = Watched(open_until=3)

    found = run(PLAN, PROCESS, watched.judge, watched.observe)

    assert isinstance(found, Settled)
    assert (found.verdict.status, len(found.taken)) == ("unchanged", 6)
    assert watched.wanted == [Wanted(2, confirms=False), Wanted(4, confirms=True)]


def test_what_was_observed_before_counts() -> None:
    watched = Watched(open_until=0)

    assert isinstance(run(PLAN, PROCESS, watched.judge, watched.observe, [GOOD]), Settled)
    assert watched.wanted == [Wanted(1, confirms=False)]


def test_a_row_of_which_no_more_can_be_had_says_what_it_wants() -> None:
    watched = Watched(open_until=3)

    assert run(PLAN, PROCESS, watched.judge, lambda _: (), [GOOD, GOOD]) == Wanted(4, confirms=True)


def test_observations_that_come_one_by_one_settle_a_row_too() -> None:
    found = run(PLAN, PROCESS, Watched(open_until=3).judge, lambda _: [GOOD])

    assert isinstance(found, Settled)
    assert len(found.taken) == 6


def test_a_process_that_fails_ends_its_row() -> None:
    watched = Watched(open_until=0, each=ended("crashed"))

    found = run(PLAN, PROCESS, watched.judge, watched.observe)

    assert isinstance(found, Settled)
    assert len(watched.wanted) == 1


def test_a_stored_baseline_costs_one_process_and_two_looks_of_four_at_most() -> None:
    assert (STORED.screen, STORED.share(0), STORED.share(1), STORED.looks) == (1, 4, 4, 2)


def test_pairs_cost_two_and_two_looks_of_three_at_most() -> None:
    assert (PAIRED.screen, PAIRED.share(0), PAIRED.share(1), PAIRED.looks) == (2, 3, 3, 2)


def test_a_pair_may_fail_once_and_confirms_a_count_once_and_a_process_does_neither() -> None:
    assert (PAIR.failures, PAIR.repeats) == (2, 1)
    assert (PROCESS.failures, PROCESS.repeats) == (1, 0)
