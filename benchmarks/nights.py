"""
Simulated nights of a hundred rows, and the rules by which others tell which of them became slower.

Simulated, since only then it is known what is true. The logarithm of a step's time is the sum of an
effect of the session, of the process, and of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pytest_llmbench.judge.noise import pooled
from pytest_llmbench.schema.metrics import Metric, Noise

ROWS = 100
STEPS, STEP_SD = 50, 0.005
Array = NDArray[np.float64]
Truths = NDArray[np.bool_]


class World(NamedTuple):
    """What moves a measurement beside what is measured."""

    name: str
    tails: float = 0.0
    """Share of processes that are slower by an exponential 2 %."""
    common_sd: float = 0.0
    """Of the session, for all rows alike."""
    session_sd: float = 0.0
    """Of the session, for each row."""


PLAIN = World("plain")
TAILS = World("heavy tails", tails=0.05)
SHIFTS = World("session shifts", common_sd=0.006, session_sd=0.001)


class Night:
    """A hundred rows with noise of their own, and sessions in which their processes are measured."""

    def __init__(self, rng: np.random.Generator, world: World, process_sd: float, slow: Array) -> None:
        self.slow = slow
        """What is true: logarithm by which each row is slower now."""
        self._rng, self._world = rng, world
        self._sd = process_sd * np.exp(rng.normal(0, 0.35, ROWS))

    def session(self) -> Array:
        """Its effect on each row."""
        return self._rng.normal(0, self._world.common_sd) + self._rng.normal(0, self._world.session_sd, ROWS)

    def processes(self, session: Array, count: int, *, now: bool, rows: Sequence[int] | slice = slice(None)) -> Array:
        """Logarithms of seconds, for each row and process."""
        sd = self._sd[rows]
        shape = (len(sd), count)
        late = (self._rng.random(shape) < self._world.tails) * self._rng.exponential(0.02, shape)
        steps = self._rng.normal(0, 1.25 * STEP_SD / math.sqrt(STEPS), shape)  # the error of a median
        centre = session[rows] + (self.slow[rows] if now else 0)
        return centre[:, None] + self._rng.normal(0, 1, shape) * sd[:, None] + late + steps

    def steps(self, processes: Array) -> Array:
        """Of each process, without the error that `processes` has from its own steps."""
        return processes[..., None] + self._rng.normal(0, STEP_SD, (*processes.shape, STEPS))

    def noise(self, metric: Metric) -> list[Noise]:
        """What calibrating every row says."""
        prior = metric.prior["device-bound"]
        sessions = [self.processes(self.session(), 4, now=False).tolist() for _ in range(5)]
        return [pooled([session[row] for session in sessions], prior) for row in range(ROWS)]


Rule = Callable[[Night], tuple[Truths, float]]
"""From a night to the rows that are called slower, as truth values, and the processes that a row took."""


def threshold(limit: float) -> Rule:
    """One process against one, and a fixed limit."""

    def rule(night: Night) -> tuple[Truths, float]:
        before, now = (night.processes(night.session(), 1, now=side) for side in (False, True))
        return (now - before)[:, 0] > math.log1p(limit), 1

    return rule


def of_minimum(night: Night) -> tuple[Truths, float]:
    """pytest-benchmark's --benchmark-compare-fail=min:5%."""
    before, now = (night.steps(night.processes(night.session(), 1, now=side)).min((1, 2)) for side in (False, True))
    return now - before > math.log1p(0.05), 1


def mann_whitney(night: Night) -> tuple[Truths, float]:
    """All steps of five processes against all steps of five others, one-sided at 5 %."""
    sides = (night.steps(night.processes(night.session(), 5, now=side)).reshape(ROWS, -1) for side in (False, True))
    before, now = sides
    return stats.mannwhitneyu(now, before, alternative="greater", axis=1, method="asymptotic").pvalue < 0.05, 5


def nvbench_interval(night: Night) -> tuple[Truths, float]:
    """nvbench: the intervals from minimum to third quartile are 0.5 % apart, or more."""
    before, now = (night.steps(night.processes(night.session(), 1, now=side))[:, 0] for side in (False, True))
    return now.min(1) - np.quantile(before, 0.75, axis=1) > math.log1p(0.005), 1
