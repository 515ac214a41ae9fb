"""Ranks of one case: what they give together, and which one failed."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import marked
import surroundings
from pytest_llmbench.executors.local import PRELOAD, LocalExecutor
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload

pytestmark = pytest.mark.xdist_group("parallel_ranks")

SMOKE = Workload(scale="smoke", device="cpu", samples=4)


class Bench:
    """An executor whose processes carry a mark."""

    def __init__(self, timeout_seconds: float) -> None:
        self.mark = uuid.uuid4().hex
        self.announced: list[str] = []
        self.executor = LocalExecutor(
            timeout_seconds=timeout_seconds,
            announce=self.announced.append,
            preload=(*PRELOAD, "pytest_llmbench.worker.entry"),
            environ={
                **os.environ,
                marked.MARK: self.mark,
                "PYTHONPATH": surroundings.python_path(Path(__file__).parent),
            },
        )

    def run(self, step: str, num_gpus: int = 2, phases: list[Phase] | None = None) -> Measurement:
        case = Case.custom(f"ranked_steps:{step}", name=step, num_gpus=num_gpus, parallelism="ddp")
        kept: list[Phase] = [] if phases is None else phases
        return self.executor.run(Request(case=case, workload=SMOKE), kept.append)

    def left_behind(self) -> list[int]:
        """Everything but the server that carries the mark and runs."""
        return marked.survivors(self.mark)


@pytest.fixture(scope="module", name="shared")
def _shared() -> Iterator[Bench]:
    bench = Bench(timeout_seconds=60)
    with bench.executor:
        yield bench


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    yield shared
    assert shared.left_behind() == []


def process_of(measurement: Measurement) -> Process:
    (process,) = measurement.processes
    return process


@pytest.mark.parametrize(
    ("step", "outcome", "reason"),
    [
        ("killed", "crashed", "rank 1 of 2: killed by SIGKILL (the out-of-memory killer does that)"),
        ("first_killed", "crashed", "rank 0 of 2: killed by SIGKILL (the out-of-memory killer does that)"),
        ("exited", "crashed", "rank 1 of 2: exited with status 3 without an answer"),
        ("with_descendant", "crashed", "rank 1 of 2: killed by SIGKILL (the out-of-memory killer does that)"),
        ("out_of_memory", "oom", "rank 1 of 2: CUDA out of memory. Tried to allocate 20.00 GiB."),
    ],
)
def test_the_rank_that_failed_is_named(bench: Bench, step: str, outcome: str, reason: str) -> None:
    measurement = bench.run(step)

    assert (measurement.outcome, measurement.reason) == (outcome, reason)


def test_an_error_of_a_rank_comes_with_its_place(bench: Bench) -> None:
    reason = bench.run("error").reason or ""

    assert reason.startswith("rank 1 of 2: ValueError: the second shard is missing (at ")
    assert "ranked_steps.py" in reason


def test_of_three_ranks_the_one_that_failed_is_named(bench: Bench) -> None:
    assert bench.run("killed", num_gpus=3).reason == (
        "rank 1 of 3: killed by SIGKILL (the out-of-memory killer does that)"
    )


def test_what_befalls_all_ranks_alike_names_none(bench: Bench) -> None:
    measurement = bench.run("all_out_of_memory")

    assert (measurement.outcome, measurement.reason) == ("oom", "CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_failed_rank_leaves_the_environment_and_no_metrics(bench: Bench) -> None:
    measurement = bench.run("error")

    assert measurement.environment is not None
    assert process_of(measurement).metrics == {}


def test_a_case_after_one_that_failed_runs(bench: Bench) -> None:
    assert [bench.run(step).outcome for step in ("killed", "as_torchrun_says")] == ["crashed", "ok"]


def test_a_rank_that_hangs_is_ended_by_the_deadline_and_told_where_it_was() -> None:
    bench = Bench(timeout_seconds=4)
    with bench.executor:
        measurement = bench.run("hanging")
        left = bench.left_behind()

    assert measurement.outcome == "timeout"
    assert "rank 1 of 2: " in (measurement.reason or "")
    lines = {line[:11]: line for line in (measurement.reason or "").splitlines() if line.startswith("rank ")}
    assert "in sleep_for_ever" in lines["rank 1 of 2"]
    assert "in meet" in lines["rank 0 of 2"]
    assert left == []


def test_ranks_die_with_the_case_that_is_taken_back(bench: Bench) -> None:
    class Stop(Exception):
        pass

    def stop(phase: Phase) -> None:
        if phase.name == "warm-up":
            raise Stop

    case = Case.custom("ranked_steps:hanging", name="hanging", num_gpus=2, parallelism="ddp")
    with pytest.raises(Stop):
        bench.executor.run(Request(case=case, workload=SMOKE), stop)

    deadline = time.monotonic() + 5
    while bench.left_behind() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_samples_of_all_ranks_count_over_the_time_of_the_slowest(bench: Bench) -> None:
    process = process_of(bench.run("uneven"))

    assert [one.samples for one in process.rounds] == [4] * 4
    seconds = sum(one.seconds for one in process.rounds)
    assert seconds > 4 * 0.06
    assert process.metrics["samples_per_second"] == pytest.approx(16 / seconds)


def test_the_spread_is_of_what_ranks_compute_and_not_of_what_they_wait(bench: Bench) -> None:
    process = process_of(bench.run("uneven"))

    spread = process.metrics["straggler_spread"]
    assert isinstance(spread, float)
    # 0.01 s for a sample and 0.06 s for three make 1.0, less what both spend besides; waiting would make it 2.0
    assert 0.5 < spread < 1.3


def test_the_speed_that_is_told_meanwhile_is_of_all_ranks(bench: Bench) -> None:
    phases: list[Phase] = []
    process = process_of(bench.run("uneven", phases=phases))

    # A phase that goes on is told again.
    told = list(dict.fromkeys(one.samples_per_second for one in phases if one.samples_per_second is not None))
    assert len(told) == len(process.rounds)
    assert told[-1] == pytest.approx(2 / process.rounds[-1].seconds, rel=0.3)  # the first rank's one sample, twice
