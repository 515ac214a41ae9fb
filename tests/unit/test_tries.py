"""How often a disturbed process is measured, and what becomes of it, by measurements whose evidence is set here."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

import measurements
from measurements import good
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Evidence, Measurement, Round
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.trials.trial import MOST_TRIES, until_valid

REQUEST = Request(case=Case(model="qwen-7b-chat"), workload=Workload(scale="smoke", device="cuda"))


def measured(evidence: Evidence | None = None, rounds: Sequence[float] = (1.0, 1.0, 1.0)) -> Measurement:
    done = tuple(Round(seconds, 4, 100) for seconds in rounds)
    process = good({}, evidence=evidence or Evidence(), rounds=done)
    return measurements.measured(process, case=REQUEST.case, workload=REQUEST.workload)


GOOD, COLD = measured(), measured(rounds=(9.0, 1.0, 1.0))
CROWDED = measured(Evidence(foreign_processes=(1,)))


class Trial:
    """Measures what it was given, in turn, and keeps what is said."""

    def __init__(self, *measurements: Measurement, shared_gpu: bool = False) -> None:
        self.left = list(measurements)
        self.said: list[str] = []
        self.found = until_valid(REQUEST, lambda: self.left.pop(0), self.said.append, shared_gpu=shared_gpu)


def test_a_good_process_is_measured_once() -> None:
    trial = Trial(GOOD, CROWDED)

    assert (trial.found, trial.left, trial.said) == (GOOD, [CROWDED], [])


def test_a_disturbed_process_is_measured_again() -> None:
    trial = Trial(CROWDED, COLD, GOOD)

    assert trial.found == GOOD
    assert trial.said[0] == ("qwen-7b-chat: 1 other process used the GPU at the same time; try 1 of 3 does not count")


def test_a_process_that_is_always_disturbed_is_invalid_and_says_why() -> None:
    [process] = Trial(*[CROWDED] * MOST_TRIES).found.processes

    assert (process.outcome, process.reason) == (
        "invalid",
        "1 other process used the GPU at the same time, in 3 tries",
    )


def test_on_a_gpu_that_is_shared_other_programs_do_not_disturb() -> None:
    assert Trial(CROWDED, shared_gpu=True).found == CROWDED


def test_rounds_on_a_cpu_may_differ() -> None:
    on_cpu = msgspec.structs.replace(COLD, workload=Workload(scale="smoke", device="cpu"))

    assert Trial(on_cpu).found == on_cpu
