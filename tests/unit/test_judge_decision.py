"""What a difference and its error decide, at the borders of the rule."""

from __future__ import annotations

import math

import pytest

from pytest_llmbench.judge.decision import ALPHA, PAIRS, decide, more_processes
from pytest_llmbench.judge.statistics import Estimate
from pytest_llmbench.schema.metrics import METRICS, Noise

BUSY = METRICS["device_busy_seconds_per_sample"]
SMALLEST = math.log1p(BUSY.smallest_effect)


@pytest.mark.parametrize(("effect", "suspect"), [(0.49, False), (0.51, True), (0.7, True)])
def test_a_move_for_the_worse_is_suspect_from_half_the_smallest_effect_on(effect: float, *, suspect: bool) -> None:
    harm = Estimate(effect * SMALLEST, 0.28 * SMALLEST, 1000)

    assert decide(harm, BUSY, ALPHA).suspect == suspect


@pytest.mark.parametrize("effect", [0.006, 0.01, 0.015])
def test_as_many_processes_are_asked_for_as_settle_it_with_an_error_a_quarter_larger(effect: float) -> None:
    noise = Noise(process_sd=0.004, process_df=20, session_sd=0.0, session_df=20)
    spread = PAIRS.spread([0.0], [effect], noise)

    def settles(count: int, larger: float) -> bool:
        more = spread._replace(process_df=spread.process_df + count - 1)
        error, df = PAIRS.error(more, 1, count)
        return decide(Estimate(effect, larger * error, df), BUSY, ALPHA).status != "undecided"

    needed = more_processes(PAIRS, spread, Estimate(effect, 0.004, 20), BUSY, ALPHA, before=1, now=1)

    assert needed is not None
    assert settles(needed, 1.24)
    assert not settles(needed - 1, 1.26)
