"""The user's own step: the example as a user runs it, and what is wrong with a step told in words."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import forked
from pytest_llmbench.engine.custom import LARGEST_COUNT, CustomTraining, build_custom
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import SEEN_ON_CPU, Workload
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.worker.measure import measure

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_step"
CPU = torch.device("cpu")


@pytest.fixture
def example(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """A copy of the example, and the function that runs it at smoke scale."""
    shutil.copytree(
        EXAMPLE, pytester.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "baselines")
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*options: str) -> pytest.RunResult:
        return forked.run_forked(pytester, "--llmbench", "--llmbench-scale=smoke", *options)

    return run


def test_the_example_is_recorded_passes_and_fails_once_it_computes_something_else(
    example: Callable[..., pytest.RunResult], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked.fork_servers(monkeypatch)
    asked = ("--llmbench", "--llmbench-scale=smoke", "--llmbench-missing=record")
    recorded = forked.run_forked(pytester, *asked, plugins=["pytest_llmbench.plugin"])

    recorded.assert_outcomes(passed=1)
    file = BaselineStore(pytester.path / "baselines").load("cpu-smoke", "regression_head")
    assert file is not None
    (process,) = file.rows["regression_head"].processes
    assert process.metrics["trainable_parameters"] == 64 * 256 + 256 + 256 + 1
    assert process.metrics["loss_last"] < process.metrics["loss_first"]  # type: ignore[operator]
    assert process.ran["optimizer"] == "AdamW"
    assert len(process.rounds) == 4
    assert sum(done.samples for done in process.rounds) == 64 * 8

    example().assert_outcomes(passed=1)

    for fault in SEEN_ON_CPU:
        planted = example(f"--llmbench-inject={fault}=64MiB")
        planted.assert_outcomes(failed=1)
        worse = {line.split()[0] for line in planted.outlines if line.endswith(" regressed")}
        assert {"operators/sample", "live"} <= worse

    step = pytester.path / "bench_step.py"
    step.write_text(step.read_text().replace("GELU", "ReLU"))
    changed = example()
    changed.assert_outcomes(failed=1)
    changed.stdout.fnmatch_lines(["regression_head[[]regression_head]: loss_* must not move*"])


def test_a_step_that_cannot_be_imported_fails_its_test(
    example: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    (pytester.path / "bench_step.py").unlink()

    run = example("--llmbench-missing=record")

    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(
        ["*there is no module 'bench_step' on the path of the measuring process; add *'pythonpath'*"]
    )
    assert not (pytester.path / "baselines").exists()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Case]:
    """Writes a module of the user's, under a name of its own, and makes the case that builds its step."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> Case:
        name = f"users_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(text)
        return Case.custom(f"{name}:build", name="own")

    return write


def plain(case: Case, samples: int = 16) -> CustomTraining:
    """A step that makes an optimizer step each time it is called."""
    training = build_custom(case, Workload(samples=samples), CPU)
    assert isinstance(training, CustomTraining)
    return training


def test_a_step_may_return_a_number_of_samples(module: Callable[[str], Case]) -> None:
    training = plain(module("def build(device): return lambda: 3"), samples=5)

    assert training.micro_step(0) == StepResult(3)
    assert len(training.micro_batch_tokens) == 5
    assert training.model is None
    assert training.optimizer_step() is None


NO_COUNTS = {
    "-4": "-4",
    "True": "True",
    "2.0": "2.0",
    "'4'": "'4'",
    "float('nan')": "nan",
    "2**62": str(2**62),
    "10**25": str(10**25),
    "10**5000": "a value of type int",
    "-(2**70)": str(-(2**70)),
    "1j": "1j",
    "[4]": r"\[4\]",
    "'4' * 100": "a value of type str",
    "'\\x1b[2J'": r"'\\x1b\[2J'",
    "torch.tensor(2.0)": r"tensor\(2.\)",
    "torch.tensor(True)": r"tensor\(True\)",
    "torch.tensor([4])": r"tensor\(\[4\]\)",
    "torch.tensor(-4)": r"tensor\(-4\)",
    "torch.tensor(4, device='meta')": "tensor",
    "np.float64(4)": "4.0",
    "np.bool_(True)": "True",
    "np.int64(-4)": "-4",
    "np.array([4, 5])": r"array\(\[4, 5\]\)",
    "Odd()": "a value of type Odd",
}
"""What a step may give as a count that is none, and how it is shown."""

STEPS = """
import numpy as np
import torch
from pytest_llmbench import StepResult

class Odd:
    def __repr__(self):
        raise RuntimeError("no words")

def build(device):
    return lambda: {returned}
"""


@pytest.mark.parametrize(("returned", "shown"), [("None", "None"), ("0", "0"), *NO_COUNTS.items()])
def test_a_step_that_does_not_say_what_it_did_is_refused(
    module: Callable[[str], Case], returned: str, shown: str
) -> None:
    case = module(STEPS.format(returned=returned))

    with pytest.raises(CaseError, match=f"step='{case.step}' returned .*{shown}.* as samples; return how many samples"):
        plain(case).micro_step(0)


@pytest.mark.parametrize(("given", "shown"), [("None", "None"), ("0", "0"), *NO_COUNTS.items()])
def test_a_result_whose_samples_are_no_count_is_refused(module: Callable[[str], Case], given: str, shown: str) -> None:
    case = module(STEPS.format(returned=f"StepResult({given}, 8)"))

    with pytest.raises(CaseError, match=f"step='{case.step}' returned .*{shown}.* as samples; return how many samples"):
        plain(case).micro_step(0)


@pytest.mark.parametrize(("given", "shown"), NO_COUNTS.items())
def test_a_result_whose_tokens_are_no_count_is_refused(module: Callable[[str], Case], given: str, shown: str) -> None:
    case = module(STEPS.format(returned=f"StepResult(4, {given})"))

    with pytest.raises(CaseError, match=f"step='{case.step}' returned .*{shown}.* as tokens; return how many tokens"):
        plain(case).micro_step(0)


@pytest.mark.parametrize("given", ["4", "np.int64(4)", "np.uint8(4)", "np.array(4)", "torch.tensor(4)"])
def test_a_whole_number_of_another_library_is_taken_as_the_number_it_is(
    module: Callable[[str], Case], given: str
) -> None:
    result = plain(module(STEPS.format(returned=f"StepResult({given}, {given})"))).micro_step(0)

    assert result == StepResult(4, 4)
    assert {type(count) for count in result[:2]} == {int}


@pytest.mark.parametrize("given", ["4", "np.int64(4)", "torch.tensor(4)"])
def test_a_step_may_return_its_samples_as_a_whole_number_of_another_library(
    module: Callable[[str], Case], given: str
) -> None:
    result = plain(module(STEPS.format(returned=given))).micro_step(0)

    assert result == StepResult(4)
    assert type(result.samples) is int


@pytest.mark.parametrize("tokens", [None, 0, LARGEST_COUNT])
def test_a_step_may_count_no_tokens_or_many(module: Callable[[str], Case], tokens: int | None) -> None:
    training = plain(module(STEPS.format(returned=f"StepResult(4, {tokens})")))

    assert training.micro_step(0) == StepResult(4, tokens)


@pytest.mark.parametrize("loss", ["torch.tensor(float('nan'))", "torch.tensor(2.5)"])
def test_a_loss_is_handed_on_unread(module: Callable[[str], Case], loss: str) -> None:
    """What it is worth is for the rounds to say, when the clock has stopped."""
    text = STEPS.format(returned=f"StepResult(np.int64(4), 8, loss={loss})")

    result = plain(module(text)).micro_step(0)

    assert isinstance(result.loss, torch.Tensor)
    assert result[:2] == (4, 8)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "module 'users_.*' has no 'build'"),
        ("def build(device): return 3", "built a int; it must build something to call"),
    ],
)
def test_a_module_that_builds_no_step_is_refused(module: Callable[[str], Case], text: str, told: str) -> None:
    with pytest.raises(CaseError, match=told):
        build_custom(module(text), Workload(), CPU)


def test_an_error_within_the_users_module_is_its_own(module: Callable[[str], Case]) -> None:
    with pytest.raises(AttributeError, match="of the user's"):
        build_custom(module("raise AttributeError('of the user\\'s')"), Workload(), CPU)


def test_a_library_that_the_users_module_misses_is_named(module: Callable[[str], Case]) -> None:
    """Also one whose name begins like the module's."""
    with pytest.raises(ModuleNotFoundError, match="No module named 'users'"):
        build_custom(module("import users"), Workload(), CPU)


def test_a_custom_step_has_no_epoch(module: Callable[[str], Case]) -> None:
    with pytest.raises(CaseError, match="samples='full' has no meaning for a custom step"):
        build_custom(module("def build(device): return lambda: 1"), Workload(samples="full"), CPU)


def test_a_step_that_is_an_object_is_asked_for_its_model(module: Callable[[str], Case]) -> None:
    case = module(
        """
import torch

class Step:
    def __init__(self):
        self.model = torch.nn.Linear(2, 3)
        self.optimizer = torch.optim.SGD(self.model.parameters())

    def __call__(self):
        return 1

def build(device):
    return Step()
"""
    )

    training = build_custom(case, Workload(), CPU)

    assert isinstance(training.model, torch.nn.Linear)
    assert isinstance(training.optimizer, torch.optim.SGD)


def test_the_function_is_handed_the_arguments(module: Callable[[str], Case]) -> None:
    case = module("def build(device, *, rank, names=()): return lambda: rank + len(names)")

    training = plain(msgspec.structs.replace(case, arguments={"rank": 3, "names": ["q", "v"]}))

    assert training.micro_step(0) == StepResult(5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"rang": 3}, "does not take arguments={'rang': 3} beside the device: missing a required argument: 'rank'"),
        ({"rank": 3, "x": 1}, "got an unexpected keyword argument 'x'"),
        ({}, "missing a required argument: 'rank'"),
        ({"rank": 3, "device": "cpu"}, "multiple values for argument 'device'"),
    ],
)
def test_arguments_that_the_function_does_not_take_are_refused(
    module: Callable[[str], Case], arguments: dict[str, Any], told: str
) -> None:
    case = module("def build(device, rank): return lambda: rank")

    with pytest.raises(CaseError, match=told):
        build_custom(msgspec.structs.replace(case, arguments=arguments), Workload(), CPU)


ACCUMULATING = """
import torch
from pytest_llmbench import StepResult

class Step:
    {said}

    def __init__(self):
        self.model = torch.nn.Linear(2, 3)
        self.optimizer = torch.optim.{optimizer}(self.model.parameters())
        self.calls = 0

    def __call__(self):
        loss = self.model(torch.ones(4, 2)).sum()
        loss.backward()
        self.calls += 1
        if self.calls % {every} == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return StepResult(4, loss=loss.detach())

def build(device):
    return Step()
"""


def accumulating(said: str = "accumulation_steps = 16", optimizer: str = "SGD", every: int = 16) -> str:
    return ACCUMULATING.format(said=said, optimizer=optimizer, every=every)


def measured(case: Case, samples: int = 16) -> Process:
    workload = Workload(scale="smoke", device="cpu", samples=samples)
    [process] = measure(Request(case=case, workload=workload), lambda _: None).processes
    return process


def test_the_passes_of_a_step_that_accumulates_cover_its_optimizer_step(module: Callable[[str], Case]) -> None:
    plain_sgd = measured(module(accumulating()))
    one_by_one = measured(renamed(module, accumulating(optimizer="SGD")))
    foreach = measured(renamed(module, accumulating(optimizer="AdamW")))

    assert plain_sgd.metrics["operators_per_sample"] == one_by_one.metrics["operators_per_sample"]
    assert foreach.metrics["operators_per_sample"] > plain_sgd.metrics["operators_per_sample"]  # type: ignore[operator]


def renamed(module: Callable[[str], Case], text: str) -> Case:
    """The case of a module that was written anew, and is not the one that was imported before."""
    case = module(text)
    assert case.step is not None
    sys.modules.pop(case.step.partition(":")[0], None)
    return case


def test_the_rounds_of_a_step_that_accumulates_are_whole_optimizer_steps(module: Callable[[str], Case]) -> None:
    process = measured(module(accumulating(said="accumulation_steps = 3", every=3)), samples=8)

    assert [done.samples for done in process.rounds] == [12, 12, 12]


@pytest.mark.parametrize(("said", "told"), [("accumulation_steps = 0", "0"), ("accumulation_steps = 'two'", "'two'")])
def test_an_accumulation_that_is_no_count_is_refused(module: Callable[[str], Case], said: str, told: str) -> None:
    with pytest.raises(CaseError, match=f"has {told} as accumulation_steps"):
        build_custom(module(accumulating(said)), Workload(), CPU)


@pytest.mark.parametrize(
    ("every", "told"), [(2, "every 2 calls, and says every call"), (32, "not once in 20 calls, and says every call")]
)
def test_a_step_that_accumulates_and_does_not_say_so_is_refused(
    module: Callable[[str], Case], every: int, told: str
) -> None:
    with pytest.raises(CaseError, match=told):
        measured(module(accumulating("pass", every=every)))


def test_a_step_without_an_optimizer_is_measured(module: Callable[[str], Case]) -> None:
    assert measured(module("import torch\ndef build(d): return lambda: torch.ones(2).numel()")).outcome == "ok"


THREADED = """
import torch
from concurrent.futures import ThreadPoolExecutor

def build(device):
    pool, model = ThreadPoolExecutor(1), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())

    def forward():
        model(torch.ones(2, 2)).sum().backward()

    def work():
        {work}
        return 1

    def step():
        return {call}

    step.model = model
    return step
"""


@pytest.mark.parametrize(
    ("work", "call", "told"),
    [
        ("forward()", "pool.submit(work).result()", "the model ran in ThreadPoolExecutor"),
        (
            "pass",
            "forward() or pool.submit(optimizer.step).result() or 1",
            "an optimizer stepped in ThreadPoolExecutor",
        ),
        ("sum(range(1_000_000))", "pool.submit(work).result()", "other threads computed for"),
    ],
)
def test_a_step_that_works_in_another_thread_is_refused(
    module: Callable[[str], Case], work: str, call: str, told: str
) -> None:
    with pytest.raises(CaseError, match=f"works in another thread, which what counts does not follow .{told}"):
        measured(module(THREADED.format(work=work, call=call)))


def test_a_step_that_works_in_its_own_thread_is_measured_beside_one_that_waits(module: Callable[[str], Case]) -> None:
    call = "pool.submit(int).result() or work()"

    assert measured(module(THREADED.format(work="forward()", call=call))).outcome == "ok"


def test_nothing_is_watched_while_anything_is_counted(module: Callable[[str], Case]) -> None:
    training = plain(renamed(module, accumulating(every=1, said="pass")), samples=4)
    for _ in range(8):
        training.micro_step(0)

    assert isinstance(training.model, torch.nn.Module)
    assert not training.model._forward_pre_hooks
    assert training._conduct is None


def test_the_optimizer_that_ran_is_the_innermost(module: Callable[[str], Case]) -> None:
    text = accumulating(every=1, said="pass").replace(
        "        self.calls = 0",
        "        self.optimizer = AcceleratedOptimizer(self.optimizer)\n        self.calls = 0",
    )
    pytest.importorskip("accelerate")

    process = measured(
        renamed(
            module,
            f"from accelerate.optimizer import AcceleratedOptimizer\nfrom accelerate import Accelerator\nAccelerator(cpu=True)\n{text}",
        )
    )

    assert process.ran["optimizer"] == "SGD"
