"""The user's own step: the example as a user runs it, and what is wrong with a step told in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import forked
from pytest_llmbench.engine.custom import LARGEST_COUNT, build_custom
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import SEEN_ON_CPU, Workload
from pytest_llmbench.store.baselines import BaselineStore

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
    example: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    recorded = pytester.runpytest_subprocess(
        "-p", "pytest_llmbench.plugin", "--llmbench", "--llmbench-scale=smoke", "--llmbench-missing=record"
    )

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
        worse = [line.split()[0] for line in planted.outlines if line.endswith(" regressed")]
        assert worse == ["regression_head", "operators/sample"]

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


def test_a_step_may_return_a_number_of_samples(module: Callable[[str], Case]) -> None:
    training = build_custom(module("def build(device): return lambda: 3"), Workload(samples=5), CPU)

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
        build_custom(case, Workload(), CPU).micro_step(0)


@pytest.mark.parametrize(("given", "shown"), [("None", "None"), ("0", "0"), *NO_COUNTS.items()])
def test_a_result_whose_samples_are_no_count_is_refused(module: Callable[[str], Case], given: str, shown: str) -> None:
    case = module(STEPS.format(returned=f"StepResult({given}, 8)"))

    with pytest.raises(CaseError, match=f"step='{case.step}' returned .*{shown}.* as samples; return how many samples"):
        build_custom(case, Workload(), CPU).micro_step(0)


@pytest.mark.parametrize(("given", "shown"), NO_COUNTS.items())
def test_a_result_whose_tokens_are_no_count_is_refused(module: Callable[[str], Case], given: str, shown: str) -> None:
    case = module(STEPS.format(returned=f"StepResult(4, {given})"))

    with pytest.raises(CaseError, match=f"step='{case.step}' returned .*{shown}.* as tokens; return how many tokens"):
        build_custom(case, Workload(), CPU).micro_step(0)


@pytest.mark.parametrize("given", ["4", "np.int64(4)", "np.uint8(4)", "np.array(4)", "torch.tensor(4)"])
def test_a_whole_number_of_another_library_is_taken_as_the_number_it_is(
    module: Callable[[str], Case], given: str
) -> None:
    result = build_custom(module(STEPS.format(returned=f"StepResult({given}, {given})")), Workload(), CPU).micro_step(0)

    assert result == StepResult(4, 4)
    assert {type(count) for count in result[:2]} == {int}


@pytest.mark.parametrize("given", ["4", "np.int64(4)", "torch.tensor(4)"])
def test_a_step_may_return_its_samples_as_a_whole_number_of_another_library(
    module: Callable[[str], Case], given: str
) -> None:
    result = build_custom(module(STEPS.format(returned=given)), Workload(), CPU).micro_step(0)

    assert result == StepResult(4)
    assert type(result.samples) is int


@pytest.mark.parametrize("tokens", [None, 0, LARGEST_COUNT])
def test_a_step_may_count_no_tokens_or_many(module: Callable[[str], Case], tokens: int | None) -> None:
    training = build_custom(module(STEPS.format(returned=f"StepResult(4, {tokens})")), Workload(), CPU)

    assert training.micro_step(0) == StepResult(4, tokens)


@pytest.mark.parametrize("loss", ["torch.tensor(float('nan'))", "torch.tensor(2.5)"])
def test_a_loss_is_handed_on_unread(module: Callable[[str], Case], loss: str) -> None:
    """What it is worth is for the rounds to say, when the clock has stopped."""
    text = STEPS.format(returned=f"StepResult(np.int64(4), 8, loss={loss})")

    result = build_custom(module(text), Workload(), CPU).micro_step(0)

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
