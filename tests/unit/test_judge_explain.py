"""Where a difference sits, in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import measurements
import surroundings
from measurements import open_row
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.explain import explain
from pytest_llmbench.judge.verdict import MetricVerdict, Status
from pytest_llmbench.schema.measurement import AllocationShare, KernelShare, Measurement, MemoryPoint, Process
from pytest_llmbench.schema.metrics import MIB, Value
from pytest_llmbench.schema.workload import Injection, Workload

ENVIRONMENT = surroundings.environment(python="3.12", num_cpus=16)
GIB = 1024 * MIB
BUSY, SPEED = "device_busy_seconds_per_sample", "samples_per_second"
DEVICE_BOUND: dict[str, Value] = {
    SPEED: 4.0,
    BUSY: 0.24,
    "kernels_per_sample": 7650.0,
    "operators_per_sample": 20000.0,
    "host_bound": 0.96,
    "peak_allocated_bytes": (18 * GIB,),
    "peak_allocated_steady_bytes": (18 * GIB,),
    "peak_reserved_bytes": (20 * GIB,),
    "peak_footprint_bytes": (21 * GIB,),
    "loss_first": 11.9,
}
KERNELS = (KernelShare("gemm", 700, 0.12), KernelShare("flash_fwd", 56, 0.08), KernelShare("add", 400, 0.04))


def measured(metrics: dict[str, Value], kernels: tuple[KernelShare, ...] = (), **changes: Any) -> Measurement:
    process = measurements.good(metrics, kernels=kernels)
    return measurements.measured(process, **{"environment": ENVIRONMENT, **changes})


def told(
    before: tuple[KernelShare, ...] = (),
    now: tuple[KernelShare, ...] = (),
    row: dict[str, Value] = DEVICE_BOUND,
    **moved: Value,
) -> str:
    """What is said of a row of which some metrics moved."""
    return judge(measured({**row, **moved}, now), Reference(measurement=measured(row, before))).explanation


def kernel(name: str, seconds: float) -> KernelShare:
    return KernelShare(name, 1, seconds)


def test_of_a_row_that_did_not_move_there_is_nothing_to_tell() -> None:
    assert told(KERNELS, KERNELS) == ""


def test_a_slower_host_is_told_from_the_gpu_with_its_counts() -> None:
    assert told(samples_per_second=4 / 1.18, kernels_per_sample=9020.0) == (
        "GPU work unchanged, host side +18.0 %: 7,650 kernels per sample before, 9,020 now"
    )


def test_a_slower_host_is_told_from_the_gpu_without_a_count_that_moved() -> None:
    """As when something sleeps in every step."""
    assert told(samples_per_second=4 / 1.18) == (
        "GPU work unchanged, host side +18.0 %: the counts are as before, the same work took the host longer"
    )


def test_a_count_that_moved_by_half_a_call_is_told_beside_a_slower_host() -> None:
    assert told(samples_per_second=4 / 1.18, operators_per_sample=20000.5) == (
        "GPU work unchanged, host side +18.0 %: 20,000.0 operators per sample before, 20,000.5 now"
    )


def test_a_count_that_moved_within_its_limit_is_not_as_before() -> None:
    newer = msgspec.structs.replace(ENVIRONMENT, packages={"torch": "2"})
    now = measured({**DEVICE_BOUND, SPEED: 4 / 1.5, "operators_per_sample": 20010.0}, environment=newer)

    verdict = judge(now, Reference(measurement=measured(DEVICE_BOUND)))

    assert verdict.explanation == (
        "GPU work unchanged, host side +50.0 %: the counts moved within their limits, and the host took longer"
    )


def test_without_a_known_count_nothing_is_said_to_be_as_before() -> None:
    row: dict[str, Value] = {SPEED: 4.0, BUSY: 0.24, "host_bound": 0.96}

    assert told(row=row, samples_per_second=4 / 1.18).endswith(
        "not every count is known that could tell why the host took longer"
    )


def test_a_faster_host_is_told_too() -> None:
    assert told(samples_per_second=4 * 1.25).startswith(
        "GPU work unchanged, host side -20.0 %: the counts are as before"
    )


def test_a_slow_down_planted_on_the_host_is_no_regression_of_the_gpu() -> None:
    planted = measured(
        {**DEVICE_BOUND, SPEED: 4 / 1.1, "host_bound": 0.88}, workload=Workload(injection=Injection("host", 0.1))
    )

    verdict = judge(planted, Reference(measurement=measured(DEVICE_BOUND)))

    assert (verdict.status, verdict.reason) == ("regressed", "regressed: samples_per_second")
    assert verdict.explanation.startswith("GPU work unchanged, host side +10.0 %")


def test_counts_that_moved_are_told_without_a_move_of_the_time() -> None:
    assert told(operators_per_sample=20400.0) == (
        "GPU work unchanged, host side: 20,000 operators per sample before, 20,400 now"
    )


def test_a_count_that_moved_by_less_than_one_is_told_with_its_digits() -> None:
    assert told(operators_per_sample=20000.25) == (
        "GPU work unchanged, host side: 20,000.0 operators per sample before, 20,000.2 now"
    )


def test_without_device_activity_nothing_is_said_of_the_gpu() -> None:
    host_only: dict[str, Value] = {SPEED: 4.0, "kernels_per_sample": 7650.0}
    assert told(row=host_only, kernels_per_sample=9020.0).startswith("GPU work not measured, host side: 7,650 kernels")


def test_a_slower_gpu_names_the_kernels_that_changed() -> None:
    now = (kernel("gemm", 0.128), kernel("flash_fwd", 0.08), kernel("add", 0.0402))

    assert told(KERNELS, now, device_busy_seconds_per_sample=0.24 + 0.0082) == (
        "GPU +3.4 %: top kernels that changed, per sample: gemm 120 ms -> 128 ms"
    )


def test_kernels_that_came_and_went_are_told_longest_first() -> None:
    now = (kernel("gemm", 0.12), kernel("eager_softmax", 0.1), kernel("add", 0.04))

    assert told(KERNELS, now, device_busy_seconds_per_sample=0.26).endswith(
        "per sample: eager_softmax not listed -> 100 ms; flash_fwd 80 ms -> not listed"
    )


def test_at_most_three_kernels_are_named() -> None:
    before = tuple(kernel(f"k{number}", 0.05) for number in range(5))
    now = tuple(kernel(f"k{number}", 0.05 + 0.002 * number) for number in range(5))

    sentence = told(before, now, device_busy_seconds_per_sample=0.26)

    assert sentence.split("per sample: ")[1] == "k4 50 ms -> 58 ms; k3 50 ms -> 56 ms; k2 50 ms -> 54 ms"


def test_a_kernel_below_the_end_of_the_list_may_have_been_there_before() -> None:
    before = (kernel("gemm", 0.2), kernel("add", 0.01), kernel("other", 0.03))
    now = (kernel("gemm", 0.22), kernel("copy", 0.0105), kernel("other", 0.03))

    assert told(before, now, device_busy_seconds_per_sample=0.26).endswith("per sample: gemm 200 ms -> 220 ms")


def test_a_gpu_that_is_slower_in_everything_says_so() -> None:
    before = tuple(kernel(f"k{number}", 0.012) for number in range(20))
    now = tuple(kernel(f"k{number}", 0.0125) for number in range(20))

    assert told(before, now, device_busy_seconds_per_sample=0.25) == "GPU +4.2 %: spread over many kernels"


def test_kernels_of_one_side_only_are_no_evidence() -> None:
    assert told((), KERNELS, device_busy_seconds_per_sample=0.26) == "GPU +8.3 % (kernels are known of one side only)"
    assert told(device_busy_seconds_per_sample=0.26) == "GPU +8.3 %"


def test_a_slower_gpu_with_a_slower_host_beside_it() -> None:
    """0.01 s of 0.25 are the GPU's, 0.025 the host's."""
    assert told(device_busy_seconds_per_sample=0.25, samples_per_second=1 / 0.285, kernels_per_sample=9020.0) == (
        "GPU +4.2 %, host side +10.0 % of the wall time, 7,650 kernels per sample before, 9,020 now"
    )


def test_wall_time_that_the_gpu_accounts_for_is_not_the_hosts() -> None:
    assert told(device_busy_seconds_per_sample=0.264, samples_per_second=1 / 0.274) == "GPU +10.0 %"


@pytest.mark.parametrize(
    ("moved", "sentence"),
    [
        (
            {"peak_allocated_bytes": (19 * GIB,), "peak_allocated_steady_bytes": (19 * GIB,)},
            "Memory, live tensors of the steps: peak_allocated_bytes +1.00 GiB, peak_allocated_steady_bytes +1.00 GiB",
        ),
        (
            {"peak_allocated_bytes": (18 * GIB + 3 * MIB,)},
            "Memory, live tensors outside the measured steps, as in loading or the first step: "
            "peak_allocated_bytes +3 MiB",
        ),
        (
            {"peak_reserved_bytes": (23 * GIB,), "peak_footprint_bytes": (24 * GIB,)},
            "Memory, what torch's allocator keeps beyond live tensors: peak_reserved_bytes +3.00 GiB, "
            "peak_footprint_bytes +3.00 GiB",
        ),
        (
            {"peak_footprint_bytes": (21 * GIB - 900 * MIB,)},
            "Memory, outside torch, as in the CUDA context or a library: peak_footprint_bytes -900 MiB",
        ),
    ],
)
def test_memory_is_told_by_the_innermost_peak_that_moved(moved: dict[str, Value], sentence: str) -> None:
    verdict = judge(measured({**DEVICE_BOUND, **moved}), Reference(measurement=measured(DEVICE_BOUND)))

    assert verdict.explanation == sentence


def peaks(**phases: int) -> Measurement:
    """A row whose live tensors take so much in each phase, at most."""
    most = max(phases.values())
    row: dict[str, Value] = {**DEVICE_BOUND, "peak_allocated_bytes": (most,), "peak_allocated_steady_bytes": (most,)}
    memory = tuple(
        MemoryPoint(phase.replace("_", "-"), float(number), (1,), (peak,), (peak,))
        for number, (phase, peak) in enumerate(phases.items())
    )
    return measured(row, processes=(Process(outcome="ok", metrics=row, memory=memory),))


@pytest.mark.parametrize(
    ("now", "where"),
    [
        ({"warm_up": 17 * GIB, "rounds": 19 * GIB}, "most is allocated in rounds, as before"),
        ({"warm_up": 19 * GIB, "rounds": 17 * GIB}, "most is allocated in warm-up, in rounds before"),
    ],
)
def test_the_phase_in_which_most_is_allocated_is_told(now: dict[str, int], where: str) -> None:
    verdict = judge(peaks(**now), Reference(measurement=peaks(warm_up=17 * GIB, rounds=18 * GIB)))

    assert verdict.explanation.endswith(f"; {where}")


def alive(count_bytes: int, *allocations: AllocationShare) -> Measurement:
    """A row whose live tensors take so much, and what they are."""
    row: dict[str, Value] = dict.fromkeys(("peak_allocated_bytes", "peak_allocated_steady_bytes"), (count_bytes,))
    process = Process(outcome="ok", metrics={**DEVICE_BOUND, **row}, peak_allocations=allocations)
    return measured(row, processes=(process,))


def test_what_asked_for_more_memory_is_named() -> None:
    logits = AllocationShare("aten::linear in Linear.forward (torch/nn/linear.py)", 1, 2 * GIB)
    copy = AllocationShare("aten::clone in step (my/step.py)", 2, 200 * MIB)

    verdict = judge(alive(18 * GIB + 200 * MIB, logits, copy), Reference(measurement=alive(18 * GIB, logits)))

    assert verdict.explanation.endswith(
        "alive at the peak of a step: aten::clone in step (my/step.py) not listed -> 200 MiB"
    )


def test_who_asked_for_memory_is_known_of_both_sides_or_not_told() -> None:
    verdict = judge(
        alive(19 * GIB, AllocationShare("aten::clone in step (my/step.py)", 2, GIB)),
        Reference(measurement=alive(18 * GIB)),
    )

    assert "aten::clone" not in verdict.explanation


def test_other_arithmetic_is_told() -> None:
    assert told(loss_first=9.0) == "It does not compute what the baseline did: loss_first moved"


def test_everything_that_moved_is_told() -> None:
    sentence = told(device_busy_seconds_per_sample=0.26, peak_footprint_bytes=(30 * GIB,), loss_first=9.0)

    assert [part.split(",")[0].split(":")[0] for part in sentence.split(". ")] == [
        "GPU +8.3 %",
        "Memory",
        "It does not compute what the baseline did",
    ]


def test_a_suspect_that_is_not_proven_is_told_too() -> None:
    assert told(device_busy_seconds_per_sample=0.24 * 1.015) == "GPU +1.5 %"


def test_kernels_that_moved_by_little_are_told_with_as_many_digits_as_it_takes() -> None:
    before = measured({}, (kernel("gemm", 0.1230),))
    now = measured({}, (kernel("gemm", 0.1232),))

    assert explain([moved(BUSY, 0.24, 0.2401)], before, now).endswith("gemm 123 ms -> 123.2 ms")


def test_kernels_are_those_of_the_processes_that_ended_well() -> None:
    crashed = Process(outcome="crashed", reason="why", kernels=(kernel("gemm", 9.0),))

    def of(seconds: float, busy: float) -> Measurement:
        row = {**DEVICE_BOUND, BUSY: busy}
        return measured(
            row, processes=(crashed, Process(outcome="ok", metrics=row, kernels=(kernel("gemm", seconds),)))
        )

    verdict = judge(of(0.22, 0.26), Reference(measurement=of(0.2, 0.24)))

    assert verdict.explanation == "GPU +8.3 %: top kernels that changed, per sample: gemm 200 ms -> 220 ms"


def test_the_kernels_of_several_processes_count_by_their_mean() -> None:
    def of(busy: float, *seconds: float) -> Measurement:
        row = {**DEVICE_BOUND, BUSY: busy}
        processes = (Process(outcome="ok", metrics=row, kernels=(kernel("gemm", one),)) for one in seconds)
        return measured(row, processes=tuple(processes))

    verdict = judge(of(0.26, 0.21, 0.23), Reference(measurement=of(0.24, 0.19, 0.21)))

    assert verdict.explanation.endswith("gemm 200 ms -> 220 ms")


def moved(metric: str, before: Value | None, now: Value | None, status: Status = "regressed") -> MetricVerdict:
    return MetricVerdict(metric=metric, status=status, baseline=before, now=now, change=0.1, gates=True, reason="r")


def test_memory_that_grew_from_nothing_is_told_whole() -> None:
    grown = moved("peak_allocated_bytes", 0, 5 * MIB)

    assert explain([grown], measured({}), measured({})).endswith("peak_allocated_bytes +5 MiB")


def test_memory_is_told_of_the_gpu_where_it_is_worst() -> None:
    grown = moved("peak_allocated_bytes", (5 * MIB, 5 * MIB), (5 * MIB, 7 * MIB))

    told_of_1 = explain([msgspec.structs.replace(grown, device=1)], measured({}), measured({}))

    assert told_of_1.endswith("peak_allocated_bytes +2 MiB")


def test_a_move_below_a_mebibyte_is_told_in_bytes() -> None:
    grown = moved("peak_footprint_bytes", 5 * MIB, 5 * MIB - 512)

    assert explain([grown], measured({}), measured({})).endswith("peak_footprint_bytes -512 B")


def test_a_gpu_of_which_noise_leaves_the_move_open_is_not_said_to_be_unchanged() -> None:
    [busy] = open_row(slower=0.007).metrics

    sentence = explain([busy, moved("kernels_per_sample", 100.0, 200.0)], measured({}), measured({}))

    assert sentence == "GPU work not seen to change, host side: 100 kernels per sample before, 200 now"


def test_several_counts_that_moved_are_all_told() -> None:
    counts = [moved("kernels_per_sample", 100.0, 200.0), moved("operators_per_sample", 10.0, 20.0)]

    assert explain(counts, measured({}), measured({})) == (
        "GPU work not measured, host side: 100 kernels per sample before, 200 now; "
        "10 operators per sample before, 20 now"
    )


def test_several_losses_that_moved_are_all_told_and_those_that_do_not_count_are_not() -> None:
    losses = [
        moved("loss_first", 1.0, 2.0),
        moved("loss_last", 1.0, 2.0),
        msgspec.structs.replace(moved("grad_norm", 1.0, 2.0), gates=False),
        moved("parameters", 1, 1, "unchanged"),
    ]

    assert explain(losses, measured({}), measured({})) == (
        "It does not compute what the baseline did: loss_first, loss_last moved"
    )


def test_memory_that_nothing_listed_accounts_for_names_nobody() -> None:
    same = AllocationShare("aten::linear in Linear.forward (torch/nn/linear.py)", 1, 2 * GIB)

    verdict = judge(alive(19 * GIB, same), Reference(measurement=alive(18 * GIB, same)))

    assert "alive at the peak" not in verdict.explanation
    assert "peak_allocated_bytes +1.00 GiB" in verdict.explanation


@pytest.mark.parametrize(("longer", "named"), [(0.0021, True), (0.0019, False)])
def test_a_kernel_is_named_from_a_tenth_of_the_difference_on(longer: float, *, named: bool) -> None:
    before = measured({}, (kernel("gemm", 0.1), kernel("add", 0.1)))
    now = measured({}, (kernel("gemm", 0.118), kernel("add", 0.1 + longer)))

    assert ("add" in explain([moved(BUSY, 0.24, 0.26)], before, now)) == named


@pytest.mark.parametrize(("longer", "host"), [(0.011, ", host side +1.1 % of the wall time"), (0.009, "")])
def test_a_host_beside_the_gpu_is_told_from_a_hundredth_of_the_wall_time_on(longer: float, host: str) -> None:
    slower = [moved(BUSY, 0.5, 0.6), moved(SPEED, 1.0, 1 / (1.1 + longer))]

    assert explain(slower, measured({}), measured({})) == f"GPU +10.0 %{host}"


def test_a_host_that_got_faster_beside_a_slower_row_is_not_told() -> None:
    slower = [moved(BUSY, 0.5, 0.7), moved(SPEED, 1.0, 1 / 1.1)]

    assert explain(slower, measured({}), measured({})) == "GPU +10.0 %"
