"""Two environments in interleaved pairs."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
import pytest

import measurements
import surroundings
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.sentence import failure_sentence
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.reports.comparison import markdown, render, to_json
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement, Outcome, Process
from pytest_llmbench.schema.metrics import Noise, Tolerance, Value
from pytest_llmbench.trials.comparison import Compared, Comparison

SPEED, BUSY = "samples_per_second", "device_busy_seconds_per_sample"
OLD = surroundings.environment(driver="580", cuda="13.0", python="3.12", num_cpus=16, packages={"torch": "2.11.0"})
NEW = msgspec.structs.replace(OLD, packages={"torch": "2.12.0"}, cuda="13.1")


def process(busy: float, kernels: float = 100.0, outcome: Outcome = "ok") -> Process:
    metrics: dict[str, Value] = {BUSY: busy, SPEED: 0.96 / busy, "host_bound": 0.96, "kernels_per_sample": kernels}
    return Process(outcome=outcome, reason=None if outcome == "ok" else "a reason", metrics=metrics)


def side(*processes: Process, **changes: Any) -> Measurement:
    return measurements.measured(*processes, **{"environment": OLD, **changes})


def pairs(slow_down: float, count: int, *, drift: float = 0.0, seed: int = 1) -> tuple[Measurement, Measurement]:
    """A and B whose session drifts by so much from pair to pair."""
    rng = random.Random(seed)
    sessions = [1 + drift * number for number in range(count)]
    a = side(*(process(0.24 * session * (1 + rng.gauss(0, 0.002))) for session in sessions))
    b = side(*(process(0.24 * session * (1 + rng.gauss(slow_down, 0.002))) for session in sessions), environment=NEW)
    return a, b


def busy(verdict: RowVerdict) -> MetricVerdict:
    return next(metric for metric in verdict.metrics if metric.metric == BUSY)


@pytest.mark.parametrize(
    ("slow_down", "count", "status"),
    [(0.0, 8, "unchanged"), (0.01, 8, "regressed"), (-0.01, 8, "improved"), (0.05, 1, "regressed")],
)
def test_pairs_tell_a_percent_on_the_gpu(slow_down: float, count: int, status: Status) -> None:
    assert busy(judge_pair(*pairs(slow_down, count))).status == status


@pytest.mark.parametrize("slow_down", [0.0, 0.01])
def test_a_session_that_drifts_cancels_within_pairs(slow_down: float) -> None:
    steady, drifting = (judge_pair(*pairs(slow_down, 8, drift=drift)) for drift in (0.0, 0.02))

    assert busy(drifting).change == pytest.approx(busy(steady).change, abs=1e-4)
    assert busy(drifting).interval == pytest.approx(busy(steady).interval, abs=1e-3)
    assert drifting.status == steady.status


def test_pairs_see_what_a_stored_baseline_cannot() -> None:
    a, b = pairs(0.01, 8)

    assert judge(b, Reference(measurement=a)).status == "undecided"
    assert judge_pair(a, b).status == "regressed"


def test_packages_that_differ_compare_and_are_named() -> None:
    verdict = judge_pair(*pairs(0.01, 8))

    assert [str(change) for change in verdict.package_changes] == ["cuda 13.0 -> 13.1", "torch 2.11.0 -> 2.12.0"]


@pytest.mark.parametrize(
    ("environment", "status"), [(OLD, "regressed"), (NEW, "unchanged")], ids=["one-environment", "across"]
)
def test_a_count_has_to_be_equal_within_one_environment_only(environment: Environment, status: Status) -> None:
    a, b = side(process(0.24, 100)), side(process(0.24, 101), environment=environment)

    assert judge_pair(a, b).status == status


def test_another_gpu_or_another_case_is_not_comparable() -> None:
    a = side(process(0.24))

    other = msgspec.structs.replace(NEW, device="NVIDIA A100")
    assert judge_pair(a, side(process(0.24), environment=other)).status == "not comparable"
    assert judge_pair(a, side(process(0.24), case=Case(model="qwen-14b-chat"))).status == "not comparable"


def test_processes_without_a_partner_do_not_count() -> None:
    a, b = pairs(0.0, 4)
    longer = msgspec.structs.replace(b, processes=(*b.processes, process(9.0), process(9.0)))

    assert busy(judge_pair(a, longer)).interval == busy(judge_pair(a, b)).interval


def test_a_pair_of_which_one_failed_does_not_count() -> None:
    a, b = pairs(0.0, 4)
    with_failed = (
        msgspec.structs.replace(a, processes=(a.processes[0], process(9.0), *a.processes[1:])),
        msgspec.structs.replace(b, processes=(b.processes[0], process(0.1, outcome="invalid"), *b.processes[1:])),
    )

    assert busy(judge_pair(*with_failed)) == busy(judge_pair(a, b))


@pytest.mark.parametrize(
    ("of_a", "of_b", "status"),
    [
        ("ok", "oom", "regressed"),
        ("oom", "ok", "improved"),
        ("oom", "oom", "unchanged"),
        ("ok", "crashed", "regressed"),
        ("ok", "invalid", "unmeasured"),
        ("crashed", "ok", "unmeasured"),
    ],
)
def test_outcomes_decide_before_speeds(of_a: Outcome, of_b: Outcome, status: Status) -> None:
    a, b = side(process(0.24), process(0.24, outcome=of_a)), side(process(0.24), process(0.24, outcome=of_b))

    assert judge_pair(a, b).status == status


def test_a_tolerance_of_the_run_is_a_plain_limit() -> None:
    assert judge_pair(*pairs(0.01, 8), {BUSY: Tolerance(0.05), SPEED: Tolerance(0.05)}).status == "unchanged"


def test_an_open_comparison_asks_for_pairs() -> None:
    verdict = judge_pair(side(process(0.24)), side(process(0.242)))

    assert verdict.status == "undecided"
    assert busy(verdict).reason.endswith(f"; {busy(verdict).processes_needed} pairs would")


def test_a_speed_that_one_process_of_a_pair_lacks_is_never_green() -> None:
    a, b = pairs(0.0, 3)
    metrics = {name: value for name, value in b.processes[1].metrics.items() if name != BUSY}
    lacking = msgspec.structs.replace(b.processes[1], metrics=metrics)
    b = msgspec.structs.replace(b, processes=(b.processes[0], lacking, b.processes[2]))

    verdict = judge_pair(a, b)

    assert verdict.failed
    assert busy(verdict).reason == "not measured in every process of every pair"


CPU = surroundings.environment(device="cpu", python="3.12")


def on_cpu(count: int) -> tuple[Measurement, Measurement]:
    return tuple(msgspec.structs.replace(one, environment=CPU) for one in pairs(0.5, count))  # type: ignore[return-value]


def speed(verdict: RowVerdict) -> MetricVerdict:
    return next(metric for metric in verdict.metrics if metric.metric == SPEED)


def test_where_nothing_is_known_of_the_noise_there_is_no_interval() -> None:
    a, b = on_cpu(3)

    for verdict in (judge_pair(a, b), judge(b, Reference(measurement=a))):
        one = speed(verdict)
        assert (one.interval, one.detectable, one.gates) == (None, None, False)
        assert one.reason.startswith("advisory: nothing is known of its noise here")


def test_many_processes_of_two_sessions_do_not_show_the_noise_between_sessions() -> None:
    a, b = on_cpu(8)

    assert speed(judge(b, Reference(measurement=a))).interval is None


def test_pairs_that_show_their_noise_themselves_have_an_interval() -> None:
    assert speed(judge_pair(*on_cpu(5))).interval is not None


def test_a_calibrated_row_on_a_cpu_has_an_interval() -> None:
    noise = Noise(process_sd=0.05, process_df=20, session_sd=0.1, session_df=5)

    assert speed(judge_pair(*on_cpu(1), noise={SPEED: noise})).interval is not None


def test_a_gpu_has_the_interval_of_its_class() -> None:
    assert speed(judge_pair(*pairs(0.0, 1))).interval is not None


def test_no_report_shows_an_interval_that_is_not_known() -> None:
    a, b = on_cpu(3)
    verdict = judge_pair(a, b)
    comparison = Comparison(
        a="a", b="b", changes=(), num_unchanged=0, rows=(Compared.of(("t", "r"), verdict, a, b, 3),)
    )
    shown = (
        render(comparison, width=200, color=False, every_metric=True),
        markdown(comparison, every_metric=True),
        failure_sentence("r", verdict),
    )

    assert not any(re.search(r"% to [+-]|interval [+-]", text) for text in shown)
    assert '"interval": null' in to_json(comparison)
