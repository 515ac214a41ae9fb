"""The noise of a row by its baseline and later measurements, and which measurements do not count for it."""

from __future__ import annotations

from typing import Any

import pytest

from measurements import BUSY, LOSS, ended, good, measured
from pytest_llmbench.judge.calibration import calibrated
from pytest_llmbench.judge.compare import Reference
from pytest_llmbench.judge.noise import estimate_noise
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.workload import Injection, Workload
from surroundings import environment

GIB = 2**30


def at(hour: int, *seconds: float, loss: float = 2.0, memory: int = GIB, **changes: Any) -> Measurement:
    """A session of that hour, with a process for each time that the GPU took."""
    metrics = [{BUSY: one, LOSS: loss, "peak_reserved_bytes": memory} for one in seconds or (0.25,)]
    return measured(*metrics, measured_at=f"2026-11-24T{hour:02}:00:00Z", **changes)


BASELINE = at(0, 0.25, 0.251)
LATER = [at(1, 0.252), at(2, 0.249, 0.25)]


def test_the_noise_is_that_of_the_baseline_and_all_later_sessions() -> None:
    found = calibrated(Reference(measurement=BASELINE), LATER)

    assert found.noise == estimate_noise([BASELINE, *LATER])
    assert (found.sessions, found.processes, found.passed_over) == (3, 5, ())


def test_a_session_that_is_given_twice_counts_once() -> None:
    found = calibrated(Reference(measurement=BASELINE), [*LATER, *LATER, BASELINE])

    assert (found.sessions, found.processes) == (3, 5)


def test_a_process_that_failed_does_not_count() -> None:
    later = measured(ended("crashed"), good({BUSY: 0.25, LOSS: 2.0, "peak_reserved_bytes": GIB}))

    assert calibrated(Reference(measurement=BASELINE), [later]).processes == 3


def test_a_calibration_tells_the_class_of_the_row() -> None:
    on_cpu: dict[str, Any] = {"environment": environment(device="cpu")}

    assert calibrated(Reference(measurement=BASELINE), LATER).row_class == "device-bound"
    assert calibrated(Reference(measurement=at(0, **on_cpu)), [at(1, **on_cpu)]).row_class == "CPU"


@pytest.mark.parametrize(
    ("measurement", "why"),
    [
        (measured(ended("crashed")), "ended crashed"),
        (at(1, workload=Workload(injection=Injection("host", 0.1))), "something was planted in it"),
        (at(1, case=Case(model="qwen-14b-chat")), "not comparable: case.model"),
        (at(1, environment=environment(packages={"torch": "2.12.0"})), "another environment: torch 2.11.0 -> 2.12.0"),
        (at(1, loss=3.0), "it did other work: loss_first moved"),
        (at(1, memory=2 * GIB), "it did other work: peak_reserved_bytes moved"),
        (at(1, memory=GIB // 2), "it did other work: peak_reserved_bytes moved"),
        (at(1, loss=3.0, memory=2 * GIB), "it did other work: peak_reserved_bytes, loss_first moved"),
    ],
)
def test_a_measurement_of_something_else_is_passed_over_with_its_reason(measurement: Measurement, why: str) -> None:
    found = calibrated(Reference(measurement=BASELINE), [measurement, *LATER])

    assert found.passed_over == (why,)
    assert found.noise == estimate_noise([BASELINE, *LATER])


def test_a_session_that_is_slower_is_noise_and_no_other_work() -> None:
    assert calibrated(Reference(measurement=BASELINE), [at(1, 0.4)]).passed_over == ()


def test_a_baseline_of_another_workload_version_compares_with_nothing() -> None:
    found = calibrated(Reference(measurement=BASELINE, workload_version=0), LATER)

    assert found.passed_over == ("not comparable: workload version",) * 2


def test_a_row_with_more_noise_sees_less_and_is_advisory() -> None:
    quiet = calibrated(Reference(measurement=BASELINE), LATER)
    loud = calibrated(Reference(measurement=BASELINE), [at(hour, 0.25 * (1 + hour % 2 / 4)) for hour in range(1, 9)])

    assert 0 < quiet.detectable[BUSY] < loud.detectable[BUSY]
    assert loud.detectable[BUSY] > 0.03
    assert loud.advisory == (BUSY,)


def test_what_is_detectable_is_for_a_single_process_whatever_the_baseline_took() -> None:
    one = calibrated(Reference(measurement=at(0, 0.25)), [])
    two = calibrated(Reference(measurement=at(0, 0.25, 0.25)), [])

    assert two.detectable[BUSY] < one.detectable[BUSY] < 1.2 * two.detectable[BUSY]
