"""The rule by which a measurement is held against a baseline, at its boundaries."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import measurements
import surroundings
from pytest_llmbench.judge.compare import Reference, judge, typical_value
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement, Outcome, Process
from pytest_llmbench.schema.metrics import MIB, Tolerance, Value
from pytest_llmbench.schema.workload import WORKLOAD_VERSION, Injection, Workload

GIB = 1024 * MIB
ENVIRONMENT = surroundings.environment(
    driver="580.159.04", cuda="13.0", num_cpus=16, system="Linux 6.8", packages={"torch": "2.11.0", "peft": "0.21.0"}
)
UPGRADED = msgspec.structs.replace(ENVIRONMENT, packages={"torch": "2.12.0", "peft": "0.21.0"})


def measured(*processes: dict[str, Value], **changes: Any) -> Measurement:
    """One process for each dict of metrics."""
    return measurements.measured(*processes, **{"environment": ENVIRONMENT, **changes})


def ended(outcome: Outcome, reason: str | None = "a reason", **changes: Any) -> Measurement:
    return measured(processes=(measurements.ended(outcome, reason),), **changes)


def compared(before: dict[str, Value], after: dict[str, Value], **changes: Any) -> RowVerdict:
    return judge(measured(after, **changes), Reference(measurement=measured(before)))


def the_metric(verdict: RowVerdict, name: str) -> MetricVerdict:
    return next(metric for metric in verdict.metrics if metric.metric == name)


SPEED: dict[str, Value] = {"samples_per_second": 3.0}


@pytest.mark.parametrize(
    ("metric", "before", "after", "status"),
    [
        ("peak_reserved_bytes", 20 * GIB, 20 * GIB + 20 * GIB // 50, "unchanged"),
        ("peak_reserved_bytes", 20 * GIB, 20 * GIB + 20 * GIB // 50 + 1000, "regressed"),
        ("peak_reserved_bytes", GIB, GIB + 64 * MIB, "unchanged"),
        ("peak_reserved_bytes", GIB, GIB + 65 * MIB, "regressed"),
        ("peak_reserved_bytes", GIB, GIB - 65 * MIB, "improved"),
        ("loss_first", 10.0, 10.1, "unchanged"),
        ("loss_first", 10.0, 10.11, "regressed"),
        ("loss_first", 10.0, 9.89, "regressed"),
        ("loss_first", 0.0, 0.000005, "unchanged"),
        ("loss_first", 0.0, 0.01, "regressed"),
        ("loss_first", 0.0001, 0.000106, "unchanged"),
        ("loss_first", 0.0001, 0.009, "regressed"),
        ("loss_first", 0.5, 0.509, "unchanged"),
        ("loss_last", 0.0001, 0.009, "regressed"),
        ("grad_norm", 0.0001, 0.009, "regressed"),
        ("loss_first", -0.0001, 0.009, "unchanged"),
        ("loss_first", -10.0, -10.11, "regressed"),
    ],
)
def test_a_metric_moves_beyond_the_larger_part_of_its_tolerance(
    metric: str, before: Value, after: Value, status: Status
) -> None:
    verdict = compared({metric: before}, {metric: after})

    assert (verdict.status, the_metric(verdict, metric).status) == (status, status)


def test_a_metric_verdict_carries_effect_and_limit() -> None:
    verdict = the_metric(
        compared({"peak_reserved_bytes": GIB}, {"peak_reserved_bytes": 2 * GIB}), "peak_reserved_bytes"
    )

    assert (verdict.baseline, verdict.now, verdict.change, verdict.limit) == (GIB, 2 * GIB, 1.0, 64 / 1024)
    assert verdict.gates
    assert verdict.reason == "default tolerance"


def test_a_change_is_positive_for_a_larger_value_even_below_zero() -> None:
    verdict = the_metric(compared({"loss_first": -10.0}, {"loss_first": -9.0}), "loss_first")

    assert (verdict.change, verdict.limit) == (0.1, 0.01)


def test_a_move_from_zero_has_no_relative_size() -> None:
    verdict = the_metric(compared({"loss_first": 0.0}, {"loss_first": 0.5}), "loss_first")

    assert (verdict.change, verdict.limit) == (None, None)
    assert verdict.reason == "default tolerance, at most 7.62939e-06 from a baseline of 0"


@pytest.mark.parametrize(("after", "status"), [(15174.0, "unchanged"), (15174.5, "regressed"), (15173.5, "improved")])
def test_an_exact_metric_must_be_equal_within_one_environment(after: float, status: Status) -> None:
    assert compared({"kernels_per_sample": 15174.0}, {"kernels_per_sample": after}).status == status


@pytest.mark.parametrize(
    "environment",
    [
        UPGRADED,
        msgspec.structs.replace(ENVIRONMENT, driver="590.1"),
        msgspec.structs.replace(ENVIRONMENT, cuda="13.1"),
        msgspec.structs.replace(ENVIRONMENT, python="3.13.0"),
        msgspec.structs.replace(ENVIRONMENT, allocator={"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
    ],
)
def test_an_exact_metric_has_its_tolerance_across_environments(environment: Environment) -> None:
    name = "moved_bytes_per_sample"
    near = compared({name: 1000.0}, {name: 1005.0}, environment=environment)
    far = compared({name: 1000.0}, {name: 1005.1}, environment=environment)

    assert (near.status, far.status) == ("unchanged", "regressed")


@pytest.mark.parametrize("name", ["kernels_per_sample", "operators_per_sample", "python_calls_per_sample"])
def test_things_that_another_environment_counts_are_told_and_never_fail(name: str) -> None:
    verdict = compared({**SPEED, name: 100.0}, {**SPEED, name: 200.0}, environment=UPGRADED)

    assert verdict.status == "unchanged"
    assert (the_metric(verdict, name).status, the_metric(verdict, name).gates) == ("regressed", False)


def test_a_tolerance_that_a_user_sets_makes_a_count_fail_across_environments() -> None:
    name = "python_calls_per_sample"
    now, then = measured({name: 110.0}, environment=UPGRADED), measured({name: 100.0})

    assert judge(now, Reference(measurement=then), {name: Tolerance(0.05)}).status == "regressed"


@pytest.mark.parametrize("name", ["tokens_per_sample", "samples_per_micro_batch"])
def test_another_amount_of_work_is_not_comparable(name: str) -> None:
    verdict = compared({**SPEED, name: 8.0}, {"samples_per_second": 6.0, name: 4.0})

    assert (verdict.status, verdict.differing) == ("not comparable", (name,))


def test_an_amount_of_work_that_one_side_does_not_say_is_left_open() -> None:
    assert compared(SPEED, {**SPEED, "tokens_per_sample": 4.0}).status == "unchanged"


@pytest.mark.parametrize("name", ["python_calls_per_sample", "python_instructions_per_sample"])
def test_what_another_version_of_python_counts_does_not_compare(name: str) -> None:
    environment = msgspec.structs.replace(ENVIRONMENT, python="3.13.1")

    verdict = compared({**SPEED, name: 100.0}, {**SPEED, name: 900.0}, environment=environment)

    assert verdict.status == "unchanged"
    assert the_metric(verdict, name).status == "not comparable"
    assert the_metric(verdict, name).reason.startswith("counted by Python 3.12 and by 3.13")


@pytest.mark.parametrize(("after", "status"), [(14.9, "unchanged"), (15.1, "regressed")])
def test_loading_fails_beyond_ten_seconds_more(after: float, status: str) -> None:
    assert compared({"load_seconds": 5.0}, {"load_seconds": after}).status == status


@pytest.mark.parametrize(("after", "status"), [(99.0, "unchanged"), (101.0, "regressed")])
def test_loading_fails_beyond_twice_its_time(after: float, status: str) -> None:
    assert compared({"load_seconds": 50.0}, {"load_seconds": after}).status == status


def test_a_resource_that_got_worse_fails_whatever_got_better() -> None:
    before: dict[str, Value] = {"moved_bytes_per_sample": 1e6, "flops_per_sample": 1e9, "peak_live_bytes": (10**6,)}
    after: dict[str, Value] = {
        "moved_bytes_per_sample": 5e5,
        "flops_per_sample": 5e8,
        "peak_live_bytes": (10**6 + 10**4,),
    }

    assert compared(before, after, environment=UPGRADED).status == "regressed"


def test_a_parameter_count_must_be_equal_across_environments_too() -> None:
    assert compared({"parameters": 7721324544}, {"parameters": 7721324545}, environment=UPGRADED).status == "regressed"


@pytest.mark.parametrize("side", ["now", "baseline"])
def test_an_exact_metric_on_which_processes_disagree_is_unmeasured(side: str) -> None:
    one: dict[str, Value] = {"kernels_per_sample": 100.0}
    two: dict[str, Value] = {"kernels_per_sample": 101.0}
    agree, differ = measured(one, one, one), measured(one, two, one)
    now, baseline = (differ, agree) if side == "now" else (agree, differ)

    verdict = judge(now, Reference(measurement=baseline))

    assert verdict.status == "unmeasured"
    assert "processes do not agree on it: 100.0, 101.0" in the_metric(verdict, "kernels_per_sample").reason


def test_the_median_over_processes_is_held_to_a_limit() -> None:
    now = measured({"loss_last": 3.0}, {"loss_last": 1.0}, {"loss_last": 3.01})

    assert typical_value(now, "loss_last") == 3.0
    assert judge(now, Reference(measurement=measured({"loss_last": 3.0}))).status == "unchanged"


def test_a_speed_changed_by_what_its_shown_values_say() -> None:
    now: list[dict[str, Value]] = [{"samples_per_second": speed} for speed in (4.81, 4.75, 3.87)]
    before = Reference(measurement=measured({"samples_per_second": 4.67}))

    found = the_metric(judge(measured(*now), before), "samples_per_second")

    assert isinstance(found.now, float)
    assert isinstance(found.baseline, float)
    assert found.now / found.baseline - 1 == pytest.approx(found.change)


def test_processes_that_failed_do_not_count() -> None:
    crashed = Process(outcome="crashed", reason="signal 11", metrics={"samples_per_second": 0.1})
    now = measured(processes=(crashed, Process(outcome="ok", metrics=SPEED)))

    assert judge(now, Reference(measurement=measured(SPEED))).status == "unchanged"


@pytest.mark.parametrize(
    ("after", "device", "status"),
    [
        ((10 * GIB, 12 * GIB), 1, "regressed"),
        ((12 * GIB, 11 * GIB), 0, "regressed"),
        ((5 * GIB, 12 * GIB), 1, "regressed"),
        ((5 * GIB, 10 * GIB), 1, "unchanged"),
        ((8 * GIB, 9 * GIB), 1, "improved"),
    ],
)
def test_the_worst_device_decides(after: Value, device: int, status: Status) -> None:
    verdict = the_metric(
        compared({"peak_reserved_bytes": (10 * GIB, 10 * GIB)}, {"peak_reserved_bytes": after}), "peak_reserved_bytes"
    )

    assert (verdict.device, verdict.status) == (device, status)


def test_a_single_device_is_not_named() -> None:
    verdict = compared({"peak_reserved_bytes": (GIB,)}, {"peak_reserved_bytes": (2 * GIB,)})

    assert the_metric(verdict, "peak_reserved_bytes").device is None


def test_the_median_is_taken_for_every_device() -> None:
    now = measured({"peak_reserved_bytes": (1, 30)}, {"peak_reserved_bytes": (2, 20)}, {"peak_reserved_bytes": (3, 10)})

    assert typical_value(now, "peak_reserved_bytes") == (2, 20)


@pytest.mark.parametrize(("before", "after"), [((1, 1), (1,)), (1, (1,)), ((1,), 1), ((), ())])
def test_values_for_other_devices_are_unmeasured(before: Value, after: Value) -> None:
    assert compared({"peak_reserved_bytes": before}, {"peak_reserved_bytes": after}).status == "unmeasured"


def test_an_advisory_metric_never_decides() -> None:
    verdict = compared({**SPEED, "first_step_seconds": 1.0}, {**SPEED, "first_step_seconds": 9.0})

    assert verdict.status == "unchanged"
    assert the_metric(verdict, "first_step_seconds").status == "regressed"
    assert not the_metric(verdict, "first_step_seconds").gates


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        pytest.param({"host_bound": 0.95}, {"host_bound": 0.95}, "regressed", id="device-bound"),
        pytest.param({"host_bound": 0.9}, {"host_bound": 0.9}, "regressed", id="just-device-bound"),
        pytest.param({"host_bound": 0.89}, {"host_bound": 0.95}, "unchanged", id="host-bound"),
        pytest.param({"host_bound": 0.95}, {"host_bound": 0.8}, "regressed", id="made-host-bound"),
        pytest.param({}, {"host_bound": 0.89}, "unchanged", id="only-known-now"),
        pytest.param({}, {}, "regressed", id="not-known"),
    ],
)
def test_a_row_that_was_host_bound_has_the_wider_noise(
    before: dict[str, Value], after: dict[str, Value], status: Status
) -> None:
    same: dict[str, Value] = {"kernels_per_sample": 100.0}
    verdict = compared({"samples_per_second": 3.0, **same, **before}, {"samples_per_second": 2.5, **same, **after})

    assert verdict.status == status


def test_wall_time_on_a_cpu_fails_no_row_by_itself() -> None:
    cpu = msgspec.structs.replace(ENVIRONMENT, device="cpu")
    baseline = Reference(measurement=measured(SPEED | {"parameters": 7}, environment=cpu))
    slower = measured({"samples_per_second": 0.1, "parameters": 7}, environment=cpu)

    assert judge(slower, baseline).status == "unchanged"


def test_wall_time_on_a_cpu_is_judged_by_a_tolerance_that_somebody_set() -> None:
    cpu = msgspec.structs.replace(ENVIRONMENT, device="cpu")
    baseline = Reference(measurement=measured(SPEED, environment=cpu))
    slower = measured({"samples_per_second": 0.1}, environment=cpu)

    assert judge(slower, baseline, {"samples_per_second": Tolerance(0.5)}).status == "regressed"


@pytest.mark.parametrize(
    ("of_row", "overrides", "status"),
    [
        ({}, {}, "regressed"),
        ({"samples_per_second": Tolerance(0.2)}, {}, "unchanged"),
        ({}, {"samples_per_second": Tolerance(0.2)}, "unchanged"),
        ({"samples_per_second": Tolerance(0.2)}, {"samples_per_second": Tolerance(0.01)}, "regressed"),
        ({"samples_per_second": Tolerance(0.01)}, {"samples_per_second": Tolerance(0.2)}, "unchanged"),
        ({"loss_first": Tolerance(0.2)}, {}, "regressed"),
    ],
)
def test_the_run_beats_the_row_beats_the_default(
    of_row: dict[str, Tolerance], overrides: dict[str, Tolerance], status: Status
) -> None:
    reference = Reference(measurement=measured(SPEED), tolerances=of_row)

    assert judge(measured({"samples_per_second": 2.7}), reference, overrides).status == status


def test_a_tolerance_of_the_row_lifts_equality() -> None:
    baseline = measured({"kernels_per_sample": 100.0})
    reference = Reference(measurement=baseline, tolerances={"kernels_per_sample": Tolerance(0.05)})

    assert judge(measured({"kernels_per_sample": 104.0}), reference).status == "unchanged"


def test_a_tolerance_of_the_run_is_a_plain_limit_that_no_process_confirms() -> None:
    verdict = judge(
        measured({"samples_per_second": 2.7}),
        Reference(measurement=measured(SPEED)),
        {"samples_per_second": Tolerance(0.08)},
    )

    speed = the_metric(verdict, "samples_per_second")
    assert (speed.status, speed.limit, speed.p_value) == ("regressed", 0.08, None)
    assert speed.interval is not None


def test_a_gating_metric_that_is_no_longer_measured_is_unmeasured() -> None:
    process = Process(outcome="ok", metrics=SPEED, missing={"peak_reserved_bytes": "no allocator"})
    baseline = measured({**SPEED, "peak_reserved_bytes": (GIB,)})

    verdict = judge(measured(processes=(process,)), Reference(measurement=baseline))

    assert (verdict.status, verdict.failed) == ("unmeasured", True)
    assert the_metric(verdict, "peak_reserved_bytes").reason == "not measured: no allocator"


def test_an_advisory_metric_that_is_no_longer_measured_does_not_matter() -> None:
    assert compared({**SPEED, "energy_joules_per_sample": 9.0}, SPEED).status == "unchanged"


def test_a_metric_that_the_baseline_lacks_is_shown_and_does_not_count() -> None:
    verdict = compared(SPEED, {**SPEED, "peak_reserved_bytes": (GIB,)})

    assert verdict.status == "unchanged"
    assert the_metric(verdict, "peak_reserved_bytes").status == "no baseline"


@pytest.mark.parametrize("metrics", [{}, {"first_step_seconds": 1.0}])
def test_a_baseline_without_a_gating_metric_is_never_green(metrics: dict[str, Value]) -> None:
    verdict = compared(metrics, {**SPEED, **metrics})

    assert verdict.status == "unmeasured"
    assert verdict.reason == "the baseline has no metric that could fail"


@pytest.mark.parametrize(
    ("before", "after"), [(3.0, float("nan")), (float("nan"), 3.0), (3.0, float("inf")), (float("nan"), float("nan"))]
)
def test_a_value_that_is_not_finite_is_never_green(before: float, after: float) -> None:
    verdict = compared({"samples_per_second": before}, {"samples_per_second": after})

    assert verdict.status == "unmeasured"


def test_one_process_that_is_not_finite_is_not_hidden_by_the_median() -> None:
    now = measured({"samples_per_second": float("nan")}, SPEED, SPEED)

    assert judge(now, Reference(measurement=measured(SPEED))).status == "unmeasured"


def test_faster_with_another_loss_is_not_improved() -> None:
    verdict = compared({**SPEED, "loss_first": 11.9}, {"samples_per_second": 6.0, "loss_first": 9.0})

    assert verdict.status == "regressed"
    assert the_metric(verdict, "samples_per_second").status == "unmeasured"
    assert the_metric(verdict, "samples_per_second").reason.startswith("better, but loss_first moved")


def test_faster_without_a_loss_to_compare_is_not_improved() -> None:
    verdict = compared({**SPEED, "loss_first": 11.9}, {"samples_per_second": 6.0})

    assert the_metric(verdict, "samples_per_second").status == "unmeasured"
    assert verdict.failed


@pytest.mark.parametrize(
    ("after", "status"),
    [
        ({"samples_per_second": 3.0, "peak_reserved_bytes": GIB, "loss_last": 9.0}, "unchanged"),
        ({"samples_per_second": 4.0, "peak_reserved_bytes": GIB, "loss_last": 9.0}, "improved"),
        ({"samples_per_second": 4.0, "loss_last": 9.0}, "unmeasured"),
        ({"samples_per_second": 2.0, "loss_last": 9.0}, "regressed"),
        ({"samples_per_second": 4.0, "peak_reserved_bytes": 2 * GIB, "loss_last": 9.0}, "regressed"),
    ],
)
def test_the_gravest_metric_is_the_rows_status(after: dict[str, Value], status: Status) -> None:
    before: dict[str, Value] = {"samples_per_second": 3.0, "peak_reserved_bytes": GIB, "loss_last": 9.0}

    assert compared(before, after).status == status


def test_the_row_says_which_metrics_decided() -> None:
    verdict = compared({**SPEED, "loss_last": 9.0}, {"samples_per_second": 1.0, "loss_last": 1.0})

    assert verdict.reason == "regressed: samples_per_second, loss_last"


@pytest.mark.parametrize(
    ("expected", "now", "status", "reason"),
    [
        ("ok", "oom", "regressed", "the baseline fits into memory, now out of memory: a reason"),
        ("oom", "ok", "improved", "fits into memory, the baseline does not"),
        ("oom", "oom", "unchanged", "out of memory, as the baseline"),
        ("crashed", "ok", "unmeasured", "nothing to hold it against: crashed: a reason"),
        ("ok", "crashed", "regressed", "crashed: a reason"),
        ("oom", "crashed", "regressed", "crashed: a reason"),
        (None, "crashed", "no baseline", "crashed: a reason; no baseline is stored for this row"),
        (None, "timeout", "no baseline", "timeout: a reason; no baseline is stored for this row"),
        (None, "diverged", "no baseline", "diverged: a reason; no baseline is stored for this row"),
        ("ok", "invalid", "unmeasured", "invalid: a reason"),
        (None, "unavailable", "unmeasured", "unavailable: a reason"),
        (None, "oom", "no baseline", "no baseline is stored for this row"),
        (None, "ok", "no baseline", "no baseline is stored for this row"),
    ],
)
def test_outcomes_decide_before_metrics(expected: Outcome | None, now: Outcome, status: Status, reason: str) -> None:
    reference = Reference(measurement=ended(expected)) if expected else None

    verdict = judge(ended(now), reference)

    assert (verdict.status, verdict.reason) == (status, reason)


def test_a_side_that_failed_before_its_environment_was_known_says_why() -> None:
    then = ended("crashed", "ImportError: no such name", environment=None)

    verdict = judge(measured({"operators_per_sample": 1.0}), Reference(measurement=then))

    assert verdict.status == "unmeasured"
    assert verdict.reason == "nothing to hold it against: crashed: ImportError: no such name"


def test_a_crash_before_anything_was_known_is_a_regression() -> None:
    verdict = judge(ended("crashed", environment=None), Reference(measurement=measured(SPEED)))

    assert (verdict.status, verdict.package_changes) == ("regressed", ())


def with_environment(**changes: Any) -> Measurement:
    return measured(SPEED, environment=msgspec.structs.replace(ENVIRONMENT, **changes))


@pytest.mark.parametrize(
    ("now", "differing", "told"),
    [
        (with_environment(device="NVIDIA A100"), ("device",), "device NVIDIA H200 -> NVIDIA A100"),
        (with_environment(num_devices=2), ("num_devices",), "num_devices 1 -> 2"),
        (measured(SPEED, workload=Workload(scale="smoke")), ("workload.scale",), "workload.scale full -> smoke"),
        (measured(SPEED, workload=Workload(samples="full")), ("workload.samples",), "workload.samples 16 -> full"),
        (
            measured(SPEED, case=Case(model="qwen-7b-chat", max_length=512, lora_rank=64)),
            ("case.max_length", "case.lora_rank"),
            "case.max_length 2048 -> 512; case.lora_rank 8 -> 64",
        ),
        (measured(SPEED, environment=None), ("environment",), "environment known -> unknown"),
    ],
)
def test_other_work_or_another_device_is_not_comparable(
    now: Measurement, differing: tuple[str, ...], told: str
) -> None:
    verdict = judge(now, Reference(measurement=measured(SPEED)))

    assert (verdict.status, verdict.differing) == ("not comparable", differing)
    assert verdict.reason == f"not comparable: {told}"


def test_out_of_memory_on_another_device_is_not_comparable() -> None:
    other = msgspec.structs.replace(ENVIRONMENT, device="NVIDIA A100")

    assert judge(ended("oom", environment=other), Reference(measurement=measured(SPEED))).status == "not comparable"


def test_a_baseline_of_another_workload_version_is_not_comparable() -> None:
    verdict = judge(measured(SPEED), Reference(measurement=measured(SPEED), workload_version=WORKLOAD_VERSION - 1))

    assert verdict.reason == f"not comparable: workload version {WORKLOAD_VERSION - 1} -> {WORKLOAD_VERSION}"


def test_an_injection_is_compared_with_a_baseline_that_has_none() -> None:
    planted = measured({"samples_per_second": 2.0}, workload=Workload(injection=Injection("device", 0.5)))

    assert judge(planted, Reference(measurement=measured(SPEED))).status == "regressed"


def test_what_is_new_in_the_environment_is_listed() -> None:
    after = msgspec.structs.replace(UPGRADED, driver="590.1", allocator={"PYTORCH_ALLOC_CONF": "backend:native"})

    verdict = judge(measured(SPEED, environment=after), Reference(measurement=measured(SPEED)))

    assert [str(change) for change in verdict.package_changes] == [
        "driver 580.159.04 -> 590.1",
        "torch 2.11.0 -> 2.12.0",
        "PYTORCH_ALLOC_CONF backend:native (new)",
    ]
    assert verdict.unchanged_packages == ("cuda", "python", "peft")


def test_a_row_that_noise_alone_leaves_open_does_not_fail() -> None:
    assert not RowVerdict(status="undecided", reason="r").failed


@pytest.mark.parametrize(
    ("status", "failed"),
    [
        ("unchanged", False),
        ("improved", False),
        ("no baseline", False),
        ("regressed", True),
        ("unmeasured", True),
        ("not comparable", True),
    ],
)
def test_what_is_not_known_to_be_good_fails(status: Status, failed: bool) -> None:
    assert RowVerdict(status=status, reason="r").failed is failed


def beside(others: int | None, speed: float) -> Measurement:
    process = measurements.good({"samples_per_second": speed, "host_bound": 0.95}, neighbours=others)
    return measured(processes=(process,))


@pytest.mark.parametrize(
    ("then", "now", "gates"),
    [(0, 0, True), (3, 2, True), (0, 3, False), (3, 0, False), (None, 0, True), (None, 2, False)],
)
def test_wall_time_counts_only_in_the_company_of_its_baseline(then: int | None, now: int | None, gates: bool) -> None:
    verdict = judge(beside(now, 1.5), Reference(measurement=beside(then, 3.0)))

    assert the_metric(verdict, "samples_per_second").gates == gates


@pytest.mark.parametrize(("then", "now", "who"), [(3, 0, "the baseline"), (0, 3, "this one")])
def test_wall_time_in_other_company_says_who_was_not_alone(then: int, now: int, who: str) -> None:
    verdict = judge(beside(now, 1.5), Reference(measurement=beside(then, 3.0)))

    assert the_metric(verdict, "samples_per_second").reason == (
        f"advisory: {who} was measured beside other rows, which share the CPUs"
    )


def test_a_metric_that_is_gone_says_why_it_was_not_measured() -> None:
    lost = Process(outcome="ok", missing={"loss_first": "no loss"})
    before = Reference(measurement=measured({"loss_first": 2.0, "loss_last": 2.0}))

    verdict = judge(measured(processes=(lost,)), before)

    assert the_metric(verdict, "loss_first").reason == "not measured: no loss"
    assert the_metric(verdict, "loss_last").reason == "not measured: no reason given"


@pytest.mark.parametrize("outcome", ["crashed", "timeout", "diverged"])
def test_a_failure_names_its_outcome_and_reason_with_and_without_a_baseline(outcome: Outcome) -> None:
    assert judge(ended(outcome), Reference(measurement=measured(SPEED))).reason == f"{outcome}: a reason"
    assert judge(ended(outcome), None).reason == f"{outcome}: a reason; no baseline is stored for this row"
    assert judge(ended(outcome, None), Reference(measurement=measured(SPEED))).reason == outcome


def test_a_row_counts_its_metrics_and_names_those_too_noisy_to_count() -> None:
    host_bound: dict[str, Value] = {"samples_per_second": 3.0, "host_bound": 0.5, "loss_first": 2.0, "loss_last": 2.0}

    assert compared(host_bound, host_bound).reason == (
        "2 metrics within their limits; too noisy to count: samples_per_second"
    )


def test_what_does_not_compare_says_each_difference_with_both_values() -> None:
    verdict = judge(measured(SPEED, case=Case(model="qwen-14b-chat")), Reference(measurement=measured(SPEED)))

    assert verdict.differing == ("case.model",)
    assert verdict.reason == "not comparable: case.model qwen-7b-chat -> qwen-14b-chat"


def test_a_row_asks_for_as_many_processes_as_its_neediest_speed() -> None:
    both: dict[str, Value] = {"samples_per_second": 3.0, "device_busy_seconds_per_sample": 0.3, "host_bound": 0.95}
    worse: dict[str, Value] = {**both, "samples_per_second": 2.95, "device_busy_seconds_per_sample": 0.3045}

    verdict = compared(both, worse)

    needed = [metric.processes_needed for metric in verdict.metrics if metric.processes_needed is not None]
    assert not verdict.failed
    assert len(needed) == 2
    assert verdict.processes_needed == max(one or 0 for one in needed)


def test_what_looks_better_while_losses_moved_names_them_all() -> None:
    before: dict[str, Value] = {"peak_reserved_bytes": (2 * GIB,), "loss_first": 2.0, "loss_last": 2.0}
    after: dict[str, Value] = {"peak_reserved_bytes": (GIB,), "loss_first": 3.0, "loss_last": 3.0}

    assert the_metric(compared(before, after), "peak_reserved_bytes").reason == (
        "better, but loss_first, loss_last moved or is not known: it may no longer compute the same"
    )


def test_a_loss_that_does_not_count_casts_no_doubt_on_an_improvement() -> None:
    before: dict[str, Value] = {"peak_reserved_bytes": (2 * GIB,), "host_bound": 0.95}
    after: dict[str, Value] = {"peak_reserved_bytes": (GIB,), "host_bound": 0.5}

    assert compared(before, after).status == "improved"


def test_a_metric_that_the_baseline_lacks_says_so() -> None:
    verdict = compared(SPEED, {**SPEED, "loss_first": 2.0})

    assert the_metric(verdict, "loss_first").reason == "the baseline does not have it"


def test_every_speed_that_is_too_noisy_to_count_is_named() -> None:
    here = surroundings.environment(device="cpu")
    row: dict[str, Value] = {**SPEED, "device_busy_seconds_per_sample": 0.3, "loss_first": 2.0}

    verdict = judge(measured(row, environment=here), Reference(measurement=measured(row, environment=here)))

    assert verdict.reason == (
        "1 metrics within their limits; too noisy to count: samples_per_second, device_busy_seconds_per_sample"
    )


def test_a_row_under_the_trainer_of_before_it_had_a_mask_is_not_comparable() -> None:
    now = measured(SPEED, case=Case(model="qwen-7b-chat", loop="trainer"))

    assert judge(now, Reference(measurement=now)).status == "unchanged"
    verdict = judge(now, Reference(measurement=now, workload_version=WORKLOAD_VERSION))
    assert verdict.reason == f"not comparable: workload version {WORKLOAD_VERSION} -> {WORKLOAD_VERSION + 1}"
