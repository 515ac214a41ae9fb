"""From what each rank gave to one measurement of the case."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import surroundings
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Evidence, KernelShare, Measurement, MemoryPoint, Process, Round
from pytest_llmbench.schema.metrics import METRICS, Metric
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.worker.merge import COMPUTE, Failure, merge

REQUEST = Request(case=Case(model="qwen-7b-chat", num_gpus=2, parallelism="ddp"), workload=Workload())
H200 = surroundings.environment(
    device_memory_bytes=150 * 10**9, driver="570", cuda="12.8", power_limit_watts=700.0, python="3.11.7", num_cpus=16
)


def rank(seconds: float = 2.0, environment: Environment = H200, **fields: Any) -> Measurement:
    process = Process(
        **{
            "outcome": "ok",
            "metrics": {"samples_per_second": 8 / seconds, "peak_reserved_bytes": (10,), "parameters": 7},
            "rounds": (Round(seconds, 8, 800),),
            "ran": {"linear": "torch.Linear", COMPUTE: repr(seconds / 8)},
        }
        | fields
    )
    return Measurement(
        case=REQUEST.case, workload=REQUEST.workload, environment=environment, processes=(process,), measured_at=""
    )


def merged(*ranks: Measurement) -> Process:
    (process,) = merge(REQUEST, ranks, []).processes
    return process


def test_speed_is_all_samples_over_the_time_of_the_slowest_rank() -> None:
    process = merged(rank(seconds=2.0), rank(seconds=2.5))

    assert process.rounds == (Round(2.5, 16, 1600),)
    assert process.metrics["samples_per_second"] == 16 / 2.5


def test_memory_has_an_entry_per_rank() -> None:
    metrics = {"peak_reserved_bytes": (11,), "peak_footprint_bytes": (13,)}

    process = merged(rank(metrics=metrics), rank(metrics={"peak_reserved_bytes": (12,), "peak_footprint_bytes": (14,)}))

    assert process.metrics["peak_reserved_bytes"] == (11, 12)
    assert process.metrics["peak_footprint_bytes"] == (13, 14)


def point(phase: str, seconds: float, bytes_: int, used: tuple[int, ...] | None = (9,)) -> MemoryPoint:
    return MemoryPoint(phase, seconds, (bytes_,), (bytes_ + 1,), (bytes_ + 2,), used)


def test_the_course_of_memory_has_an_entry_per_rank_and_the_time_of_the_last() -> None:
    process = merged(rank(memory=(point("build", 1.0, 10),)), rank(memory=(point("build", 1.5, 20),)))

    assert process.memory == (MemoryPoint("build", 1.5, (10, 20), (11, 21), (12, 22), (9, 9)),)


def test_memory_that_one_rank_alone_knows_is_not_that_of_all() -> None:
    process = merged(rank(memory=(point("build", 1.0, 10),)), rank(memory=(point("build", 1.0, 10, used=None),)))

    assert process.memory[0].used_bytes is None
    assert merged(rank(memory=(point("build", 1.0, 10),)), rank()).memory == ()


def test_parameters_are_counted_once() -> None:
    assert merged(rank(), rank()).metrics["parameters"] == 7


def test_costs_per_sample_are_those_of_all_gpus_over_all_samples() -> None:
    process = merged(
        rank(metrics={"device_busy_seconds_per_sample": 0.2, "kernels_per_sample": 700.5}),
        rank(metrics={"device_busy_seconds_per_sample": 0.4, "kernels_per_sample": 700.5}),
    )

    assert process.metrics["device_busy_seconds_per_sample"] == pytest.approx(0.3)
    assert process.metrics["kernels_per_sample"] == 700.5


def test_loading_takes_as_long_as_the_slowest_rank_does() -> None:
    process = merged(rank(metrics={"load_seconds": 1.0}), rank(metrics={"load_seconds": 3.0}))

    assert process.metrics["load_seconds"] == 3.0


def test_what_one_rank_could_not_measure_is_missing_with_its_reason() -> None:
    process = merged(
        rank(metrics={"energy_joules_per_sample": 5.0}), rank(metrics={}, missing={"energy_joules_per_sample": "why"})
    )

    assert "energy_joules_per_sample" not in process.metrics
    assert process.missing["energy_joules_per_sample"] == "why"


def test_evidence_has_an_entry_per_rank_and_retries_add_up() -> None:
    process = merged(
        rank(evidence=Evidence(sm_clock_mhz=(1980,), power_watts=(600.0,), allocation_retries=1)),
        rank(evidence=Evidence(sm_clock_mhz=(1410,), allocation_retries=2)),
    )

    assert process.evidence == Evidence(sm_clock_mhz=(1980, 1410), allocation_retries=3)


def test_kernels_of_the_ranks_are_joined_by_family() -> None:
    process = merged(
        rank(kernels=(KernelShare("gemm", 10, 0.4), KernelShare("other", 4, 0.8))),
        rank(kernels=(KernelShare("nccl", 2, 0.6), KernelShare("gemm", 10, 0.2), KernelShare("other", 2, 0.2))),
    )

    assert [share.name for share in process.kernels] == ["gemm", "nccl", "other"]
    assert process.kernels[0].seconds_per_sample == pytest.approx(0.3)
    assert process.kernels[1] == KernelShare("nccl", 1.0, 0.3)


def test_the_spread_tells_how_much_longer_the_slowest_rank_computes() -> None:
    process = merged(rank(seconds=2.0), rank(seconds=2.2))

    assert process.metrics["straggler_spread"] == pytest.approx(0.1)
    assert process.ran == {"linear": "torch.Linear", "ranks": "2"}


def test_the_environment_counts_the_gpus_of_all_ranks() -> None:
    environment = merge(REQUEST, [rank(), rank()], []).environment

    assert environment is not None
    assert (environment.device, environment.num_devices) == ("NVIDIA H200", 2)


def test_ranks_on_the_cpu_share_one_device() -> None:
    cpu = msgspec.structs.replace(H200, device="cpu")

    environment = merge(REQUEST, [rank(environment=cpu), rank(environment=cpu)], []).environment

    assert environment is not None
    assert environment.num_devices == 1


def test_ranks_on_gpus_of_two_models_are_invalid() -> None:
    process = merged(rank(), rank(environment=msgspec.structs.replace(H200, device="NVIDIA A100")))

    assert (process.outcome, process.reason) == (
        "invalid",
        "the ranks are on different GPUs: NVIDIA H200, NVIDIA A100",
    )


@pytest.mark.parametrize(
    "consequence",
    [
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:31",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2356, remote process exited",
    ],
)
def test_a_rank_that_lost_contact_to_another_is_not_to_blame(consequence: str) -> None:
    failures = [
        Failure(0, Process(outcome="crashed", reason=consequence)),
        Failure(1, Process(outcome="crashed", reason="ValueError: no shard")),
    ]

    assert merge(REQUEST, [rank(), rank()], failures).reason == "rank 1 of 2: ValueError: no shard"


def test_where_all_lost_contact_the_first_is_named() -> None:
    failures = [Failure(n, Process(outcome="crashed", reason=f"NCCL error {n}")) for n in (1, 0)]

    assert merge(REQUEST, [None, None], failures).reason == "rank 1 of 2: NCCL error 1"


def test_metrics_of_a_rank_are_none_of_a_case_that_failed() -> None:
    oom = Process(outcome="oom", reason="out of memory", metrics={"peak_reserved_bytes": (10,)})

    (process,) = merge(REQUEST, [rank(), None], [Failure(1, oom)]).processes

    assert (process.outcome, process.metrics) == ("oom", {})
    assert process.missing == {"peak_reserved_bytes": "rank 1 failed"}


def test_a_metric_that_does_not_say_how_ranks_come_together_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Metric(name="acme_seconds", unit="s", better="lower", gate="tolerance", describe="It is.")
    monkeypatch.setitem(METRICS, own.name, own)

    process = merged(rank(metrics={own.name: 1.0}), rank(metrics={own.name: 3.0}))

    assert own.name not in process.metrics
    assert "over_ranks" in process.missing[own.name]


@pytest.mark.parametrize(("how", "value"), [("mean", 2.0), ("largest", 3.0), ("same", 1.0)])
def test_a_metric_comes_together_as_it_says(monkeypatch: pytest.MonkeyPatch, how: Any, value: float) -> None:
    own = Metric(name="acme_seconds", unit="s", better="lower", gate="tolerance", over_ranks=how, describe="It is.")
    monkeypatch.setitem(METRICS, own.name, own)

    process = merged(rank(metrics={own.name: 1.0}), rank(metrics={own.name: 3.0}))

    assert process.metrics[own.name] == value
