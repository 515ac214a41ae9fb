from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import marked
import surroundings
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload


class Bench:
    """An executor whose processes all carry a mark, and what it said."""

    def __init__(self, timeout_seconds: float, preload: Sequence[str] = (), measure: str = "steps:measure") -> None:
        self.mark = uuid.uuid4().hex
        self.announced: list[str] = []
        self.phases: list[str] = []
        self.environ = {
            **os.environ,
            marked.MARK: self.mark,
            "PYTHONPATH": surroundings.python_path(Path(__file__).parent),
        }
        self.environ.pop("PYTHONUNBUFFERED", None)  # what was printed is to survive without it
        self.executor = LocalExecutor(
            timeout_seconds=timeout_seconds,
            announce=self.announced.append,
            measure=measure,
            preload=preload,
            environ=self.environ,
        )

    def run(self, step: str, visible_devices: str | None = None) -> Measurement:
        """Measure a case whose process runs that function of `steps`."""
        case = Case.custom(f"steps:{step}", name=step)
        request = Request(case=case, workload=Workload(device="cpu"), visible_devices=visible_devices)
        return self.executor.run(request, self._hear)

    def _hear(self, phase: Phase) -> None:
        """Note a phase once, though it is told again while it goes on."""
        if self.phases[-1:] != [phase.name]:
            self.phases.append(phase.name)

    def running(self) -> dict[int, int]:
        """Process id to parent's of everything below the executor that has not ended."""
        return marked.running(self.mark)

    def servers(self) -> list[int]:
        return marked.servers(self.mark)

    def survivors(self) -> list[int]:
        """What runs though no case does."""
        return marked.survivors(self.mark)

    def await_nothing_running(self, but: int | None = None) -> None:
        deadline = time.monotonic() + 10
        while set(self.running()) - {but}:
            assert time.monotonic() < deadline, f"still running: {self.running()}"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def shared_bench() -> Iterator[Bench]:
    bench = Bench(timeout_seconds=30)
    with bench.executor:
        yield bench
    assert bench.running() == {}


@pytest.fixture
def bench(shared_bench: Bench) -> Iterator[Bench]:
    """A patient executor that all tests share: a fault in one case is no concern of the next."""
    shared_bench.announced.clear()
    shared_bench.phases.clear()
    yield shared_bench
    assert shared_bench.survivors() == []


@pytest.fixture
def new_bench() -> Iterator[Callable[..., Bench]]:
    """Makes executors of the test's own."""
    benches: list[Bench] = []

    def make(timeout_seconds: float = 30.0, preload: Sequence[str] = (), measure: str = "steps:measure") -> Bench:
        benches.append(Bench(timeout_seconds, preload, measure))
        return benches[-1]

    yield make
    for bench in benches:
        bench.executor.close()
        assert bench.running() == {}
