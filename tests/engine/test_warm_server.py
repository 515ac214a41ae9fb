"""The warm server imports torch once, and its children can use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

Run = Callable[[str], Process]


@pytest.fixture
def announced() -> list[str]:
    return []


@pytest.fixture
def warm(announced: list[str]) -> Iterator[Callable[[Sequence[str]], Run]]:
    """Makes an executor that preloads modules, and gives the function that runs one step on it."""
    executors: list[LocalExecutor] = []
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])

    def start(preload: Sequence[str]) -> Run:
        executor = LocalExecutor(
            timeout_seconds=120,
            announce=announced.append,
            measure="warm_steps:measure",
            preload=preload,
            environ={**os.environ, "PYTHONPATH": path},
        )
        executors.append(executor)

        def run(step: str) -> Process:
            request = Request(case=Case.custom(f"warm_steps:{step}", name=step), workload=Workload())
            (process,) = executor.run(request, lambda _: None).processes
            assert process.outcome == "ok", process.reason
            return process

        return run

    yield start
    for executor in executors:
        executor.close()


def test_children_of_a_server_with_torch_compute_and_import_nothing(
    warm: Callable[[Sequence[str]], Run], announced: list[str]
) -> None:
    run = warm(["torch"])

    first, second = run("cpu_sum"), run("cpu_sum")

    assert [first.metrics["loss_last"], second.metrics["loss_last"]] == [64.0**3, 64.0**3]
    assert [first.ran["imported"], second.ran["imported"]] == ["True", "True"]
    assert first.ran["pid"] != second.ran["pid"]
    assert announced == []


@pytest.mark.hardware
@needs_gpu
def test_children_of_a_server_with_torch_use_the_gpu(
    warm: Callable[[Sequence[str]], Run], announced: list[str]
) -> None:
    run = warm(["torch"])

    assert [run("gpu_sum").metrics["loss_last"] for _ in range(2)] == [64.0**3, 64.0**3]
    assert announced == []


@pytest.mark.hardware
@needs_gpu
def test_a_module_that_initialises_cuda_is_left_out(warm: Callable[[Sequence[str]], Run], announced: list[str]) -> None:
    run = warm(["torch", "initialises_cuda"])

    process = run("gpu_sum")

    assert process.metrics["loss_last"] == 64.0**3
    assert process.ran["imported"] == "True"
    assert len(announced) == 1
    assert announced[0].startswith("importing initialises_cuda initialised CUDA")
    assert "the server keeps torch" in announced[0]


@pytest.mark.hardware
@needs_gpu
def test_a_module_that_asks_whether_there_is_a_gpu_is_kept_warm(
    warm: Callable[[Sequence[str]], Run], announced: list[str]
) -> None:
    run = warm(["torch", "asks_for_cuda"])

    process = run("gpu_sum")

    assert process.metrics["loss_last"] == 64.0**3
    assert announced == []


@pytest.mark.hardware
@needs_gpu
def test_a_module_that_asks_what_the_gpu_can_do_is_kept_warm(
    warm: Callable[[Sequence[str]], Run], announced: list[str]
) -> None:
    run = warm(["torch", "asks_for_capability"])

    process = run("gpu_capability")

    assert process.ran["answer at import"] == process.ran["answer of CUDA"]
    assert announced == []


@pytest.mark.hardware
@needs_gpu
def test_a_killed_case_gives_its_gpu_memory_back(warm: Callable[[Sequence[str]], Run]) -> None:
    run = warm(["torch"])
    before = int(run("gpu_used_bytes").metrics["peak_footprint_bytes"])  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="SIGKILL"):
        run("killed_with_gpu_memory")

    after = int(run("gpu_used_bytes").metrics["peak_footprint_bytes"])  # type: ignore[arg-type]

    assert after - before < 2**30
