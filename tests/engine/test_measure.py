"""The life of one case on the CPU, and what becomes of a case that goes wrong on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Literal

import msgspec
import pytest
import torch

from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import CiRun, Repository
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import METRICS, NOTHING_SEEN
from pytest_llmbench.schema.protocol import Phase, Request, Surroundings
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import (
    SEEN_ON_CPU,
    Injection,
    Workload,
)
from pytest_llmbench.worker.measure import measure

SMOKE = Workload(scale="smoke", device="cpu", samples=4)


def measured(case: Case, workload: Workload = SMOKE) -> Measurement:
    return measure(Request(case=case, workload=workload), lambda _: None)


def build_nan(device: Any) -> Any:
    return lambda: StepResult(1, loss=torch.tensor(float("nan")))


def build_too_large(device: Any) -> Any:
    def step() -> int:
        raise torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. See documentation for Memory Management"
        )

    return step


def build_silent(device: Any) -> Any:
    return lambda: 2


def build_threaded(device: Any) -> Any:
    """Its work runs in a thread of its own, which torch's profiler does not see."""
    from concurrent.futures import ThreadPoolExecutor

    pool, weight = ThreadPoolExecutor(1), torch.ones(8, 8, device=device)

    def step() -> int:
        pool.submit(torch.mm, weight, weight).result()
        return 1

    return step


@pytest.fixture(scope="module", name="row")
def _row() -> Measurement:
    return measured(Case(model="qwen-7b-chat", accumulation_steps=2))


@pytest.mark.versions
def test_a_row_on_the_cpu_ends_ok(row: Measurement) -> None:
    assert (row.outcome, row.reason) == ("ok", None)


@pytest.mark.versions
def test_every_metric_is_there_or_has_a_reason_why_not(row: Measurement) -> None:
    [process] = row.processes

    assert set(METRICS) == set(process.metrics) | (set(process.missing) & set(METRICS))
    assert not set(process.metrics) & set(process.missing)


def test_what_only_a_gpu_has_is_missing_with_that_reason(row: Measurement) -> None:
    assert row.processes[0].missing["peak_reserved_bytes"] == "measured on the CPU"


@pytest.mark.versions
def test_what_really_ran_is_recorded(row: Measurement) -> None:
    ran = row.processes[0].ran

    assert ran["attention"].startswith("sdpa")
    assert (ran["linear"], ran["optimizer"], ran["trained_dtype"]) == ("torch.Linear", "AdamW", "bfloat16")


def test_operators_that_run_in_another_thread_are_missing_and_not_0() -> None:
    [process] = measured(Case.custom(f"{__name__}:build_threaded", name="threaded")).processes

    assert process.outcome == "ok"
    assert "operators_per_sample" not in process.metrics
    assert process.missing["operators_per_sample"] == NOTHING_SEEN


@pytest.mark.versions
def test_the_same_row_counts_the_same_operators_again(row: Measurement) -> None:
    again = measured(Case(model="qwen-7b-chat", accumulation_steps=2))

    assert again.processes[0].metrics["operators_per_sample"] == row.processes[0].metrics["operators_per_sample"]


@pytest.mark.parametrize("with_profile", [True, False])
def test_a_profile_is_taken_if_asked_for(with_profile: bool) -> None:
    request = Request(case=Case(model="qwen-7b-chat"), workload=SMOKE, with_profile=with_profile)

    [process] = measure(request, lambda _: None).processes

    taken = "profile" in process.phase_seconds, bool(process.peak_allocations), bool(process.profile)
    assert taken == (with_profile,) * 3


def test_the_environment_is_told_before_the_model_is_built() -> None:
    told: list[str] = []

    def listen(message: Phase | Surroundings) -> None:
        told.append(message.name if isinstance(message, Phase) else message.environment.device)

    measure(Request(case=Case(model="qwen-7b-chat"), workload=SMOKE), listen)

    assert told[:3] == ["devices", "cpu", "build"]


@pytest.mark.versions
def test_another_attention_than_asked_for_makes_the_row_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.llama.modeling_llama import eager_attention_forward

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", eager_attention_forward)

    row = measured(Case(model="qwen-7b-chat", attention="sdpa"))

    assert (row.outcome, row.reason) == ("invalid", "asked for sdpa attention, but eager ran")


@pytest.mark.versions
def test_a_backend_that_cannot_run_here_makes_the_row_unavailable() -> None:
    row = measured(Case(model="baichuan2-13b-chat", attention="sdpa-flash"))

    assert row.outcome == "unavailable"
    assert row.environment is not None


@pytest.mark.parametrize(
    ("build", "outcome", "reason"),
    [
        ("build_nan", "diverged", "the loss of measured micro-batch 0 is nan"),
        ("build_too_large", "oom", "CUDA out of memory. Tried to allocate 20.00 GiB."),
    ],
)
def test_a_step_that_goes_wrong_is_an_outcome(build: str, outcome: str, reason: str, step_module: str) -> None:
    row = measured(Case.custom(f"{step_module}:{build}", name=build))

    assert (row.outcome, row.reason) == (outcome, reason)


def test_a_step_that_tells_little_leaves_the_rest_unknown(step_module: str) -> None:
    [process] = measured(Case.custom(f"{step_module}:build_silent", name="silent")).processes

    assert process.missing["loss_first"] == "the step returns no loss"
    assert process.missing["tokens_per_second"] == "the step does not count tokens"
    assert "parameters" in process.missing


def test_a_slow_down_planted_on_the_host_is_seen_in_wall_time() -> None:
    case = Case(model="qwen-7b-chat", accumulation_steps=4)
    planted = Workload(scale="smoke", device="cpu", samples=4, injection=Injection("host", 20.0))

    slow, fast = (one.processes[0].metrics["samples_per_second"] for one in (measured(case, planted), measured(case)))

    assert slow < fast / 4  # type: ignore[operator]


@pytest.mark.parametrize("kind", SEEN_ON_CPU)
def test_an_allocation_planted_on_the_cpu_is_seen_as_an_operator_and_as_a_peak_and_as_nothing_else(
    row: Measurement, kind: Literal["memory", "memory-idle"]
) -> None:
    planted = msgspec.structs.replace(SMOKE, injection=Injection(kind, 2**20))

    verdict = judge(measured(row.case, planted), Reference(measurement=row))

    assert [one.metric for one in verdict.metrics if one.gates and one.status != "unchanged"] == [
        "operators_per_sample",
        "peak_live_bytes",
    ]


@pytest.fixture(name="step_module")
def _step_module(monkeypatch: pytest.MonkeyPatch) -> str:
    """This file under a name that a custom step can be imported by."""
    import sys

    monkeypatch.setitem(sys.modules, "measured_steps", sys.modules[__name__])
    return "measured_steps"


def build_compiled(device: Any) -> Any:
    """Compiles anew for each number of rows, as a step of changing shapes does."""
    layer = torch.nn.Linear(4, 4)
    compiled = torch.compile(layer, backend="eager", dynamic=False)
    sizes = iter(range(2, 10**6))

    def step() -> int:
        compiled(torch.ones(next(sizes), 4)).sum().backward()
        return 1

    return step


def build_compiled_once(device: Any) -> Any:
    compiled = torch.compile(torch.nn.Linear(4, 4), backend="eager")

    def step() -> int:
        compiled(torch.ones(2, 4)).sum().backward()
        return 1

    return step


@pytest.mark.parametrize(("build", "count"), [("build_compiled", 4), ("build_compiled_once", 0), ("build_silent", 0)])
def test_graphs_that_are_compiled_while_it_is_timed_are_counted(build: str, count: int) -> None:
    [process] = measured(Case.custom(f"{__name__}:{build}", name="step")).processes

    assert process.outcome == "ok"
    assert process.evidence.recompilations == count


def test_the_environment_says_which_code_it_was() -> None:
    case = Case.custom(f"{__name__}:build_silent", name="silent")
    request = Request(case=case, workload=SMOKE, repository=Repository("1" * 40), ci=CiRun("CI"))

    environment = measure(request, lambda _: None).environment

    assert environment is not None
    assert (environment.repository, environment.ci) == (request.repository, request.ci)
    assert environment.origins is not None
    assert environment.origins.keys() == environment.packages.keys()


def fresh(case: Case, **environ: str) -> dict[str, Any]:
    """What a process of its own measures, in this environment."""
    script = (
        "import msgspec, sys; from pytest_llmbench.schema.protocol import Request;"
        "from pytest_llmbench.worker.measure import measure;"
        "request = msgspec.json.decode(sys.stdin.read(), type=Request);"
        "print(msgspec.json.encode(measure(request, lambda _: None).processes[0].metrics).decode())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        input=msgspec.json.encode(Request(case=case, workload=SMOKE)).decode(),
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    metrics: dict[str, Any] = msgspec.json.decode(ran.stdout.splitlines()[-1])
    return metrics


def test_figures_of_memory_are_the_same_on_a_cpu_with_fewer_instructions() -> None:
    """Kernels choose other scratch memory then, which moved a peak by a third."""
    case = Case(model="qwen-7b-chat")
    names = ("peak_live_bytes", "retained_bytes_per_step", "moved_bytes_per_sample", "flops_per_sample")

    here, older = fresh(case), fresh(case, ONEDNN_MAX_CPU_ISA="AVX2", ATEN_CPU_CAPABILITY="avx2")

    assert {name: older[name] for name in names} == {name: here[name] for name in names}


def build_unwatchable(device: Any) -> Any:
    """It refuses to run where somebody watches its operators."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    weight = torch.ones(8, 8, device=device)

    def step() -> int:
        if _get_current_dispatch_mode() is not None:
            raise RuntimeError("a mode is on")
        torch.mm(weight, weight)
        return 1

    return step


def test_a_step_that_cannot_be_watched_has_no_profile_and_a_reason() -> None:
    [process] = measured(Case.custom(f"{__name__}:build_unwatchable", name="unwatchable")).processes

    assert (process.outcome, bool(process.profile)) == ("ok", False)
    assert process.missing["flops_per_sample"] == "the step cannot be watched: RuntimeError: a mode is on"


WATCHED: list[str] = []
KEPT: list[Any] = []


def build_watched(device: Any, kept: str = "") -> Any:
    """It notes each call that somebody watches; on demand it keeps an output of each, with its graph or without."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    weight = torch.ones(8, 8, device=device, requires_grad=True)

    def step() -> int:
        if _get_current_dispatch_mode() is not None:
            WATCHED.append(kept)
        output = torch.mm(weight, weight)
        if kept:
            KEPT.append(output if kept == "graph" else output.detach())
        output.sum().backward()
        weight.grad = None
        return 1

    return step


@pytest.mark.parametrize(("kept", "calls", "at_least"), [("", 2, 0), ("output", 3, 256), ("graph", 3, 256)])
def test_a_step_is_watched_once_more_only_where_it_leaves_something_behind(
    kept: str, calls: int, at_least: int
) -> None:
    WATCHED.clear()
    case = Case.custom(f"{__name__}:build_watched", name="watched", arguments={"kept": kept})

    [process] = measured(case).processes

    [retained] = process.metrics["retained_bytes_per_step"]  # type: ignore[misc]
    assert (len(WATCHED), retained >= at_least, bool(retained)) == (calls, True, bool(kept))


def test_a_graph_that_is_left_behind_is_told_by_the_place_of_its_end() -> None:
    case = Case.custom(f"{__name__}:build_watched", name="watched", arguments={"kept": "graph"})

    [process] = measured(case).processes

    assert process.profile
    [named] = process.profile.retained
    assert named.startswith("graph up to MmBackward0 in ")
    assert named.endswith("test_measure.py:build_watched.<locals>.step")
