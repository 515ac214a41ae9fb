"""What a scheduler believes of how long cases take."""

from __future__ import annotations

import msgspec
import pytest

import measurements
from measurements import good
from pytest_llmbench.executors.durations import Durations
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload

QWEN = Case(model="qwen-7b-chat")
FULL = Workload()


def measured(case: Case, seconds: float, workload: Workload = FULL) -> Measurement:
    process = good({}, phase_seconds={"build": seconds / 4, "rounds": 3 * seconds / 4})
    return measurements.measured(process, case=case, workload=workload)


def test_a_case_takes_as_long_as_it_did_the_last_time() -> None:
    durations = Durations([measured(QWEN, 30), measured(QWEN, 40)])

    assert durations(Request(case=QWEN, workload=FULL)) == 40


def test_an_earlier_measurement_of_other_samples_says_nothing() -> None:
    epoch = msgspec.structs.replace(FULL, samples="full")

    assert Durations([measured(QWEN, 3, epoch)])(Request(case=QWEN, workload=FULL)) == Durations()(
        Request(case=QWEN, workload=FULL)
    )


def test_one_that_did_not_get_far_enough_to_have_phases_says_nothing() -> None:
    assert Durations([measured(QWEN, 0)])(Request(case=QWEN, workload=FULL)) > 0


@pytest.mark.parametrize(
    ("longer", "shorter"),
    [
        (Case(model="qwen-72b-chat"), QWEN),
        (QWEN, Case(model="qwen-1_8b-chat")),
        (Case(model="qwen-7b-chat", max_length=8192), QWEN),
        (Case(model="qwen-7b-chat", accumulation_steps=64), QWEN),
        (Case(model="org/model-70B-Instruct"), Case(model="org/model-8b-base")),
    ],
)
def test_the_larger_case_is_believed_to_take_longer(longer: Case, shorter: Case) -> None:
    durations = Durations()

    assert durations(Request(case=longer, workload=FULL)) > durations(Request(case=shorter, workload=FULL))


def test_a_whole_epoch_is_believed_to_take_longer() -> None:
    epoch = msgspec.structs.replace(FULL, samples="full")

    assert Durations()(Request(case=QWEN, workload=epoch)) > Durations()(Request(case=QWEN, workload=FULL))


def test_miniatures_are_all_alike() -> None:
    smoke = Workload(scale="smoke", device="cpu")
    requests = [Request(case=Case(model=model), workload=smoke) for model in ("qwen-72b-chat", "qwen-1_8b-chat")]

    assert len({Durations()(request) for request in requests}) == 1
