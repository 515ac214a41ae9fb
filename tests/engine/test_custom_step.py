"""The user's own step: the example as a user runs it, and what is wrong with a step told in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_llmbench.baselines.store import BaselineStore
from pytest_llmbench.cases import Case, CaseError
from pytest_llmbench.step import StepResult
from pytest_llmbench.workload import SEEN_ON_CPU, Workload

torch = pytest.importorskip("torch")

from pytest_llmbench.engine.custom import build_custom  # noqa: E402 - it imports torch

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
        smoke = ("-p", "pytest_llmbench.plugin", "--llmbench", "--llmbench-scale=smoke")
        return pytester.runpytest_subprocess(*smoke, *options)

    return run


def test_the_example_is_recorded_passes_and_fails_once_it_computes_something_else(
    example: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    recorded = example("--llmbench-missing=record")

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
    changed.stdout.fnmatch_lines(["regression_head: loss_* must not move*"])


def test_a_step_that_cannot_be_imported_fails_its_test(
    example: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    (pytester.path / "bench_step.py").unlink()

    run = example("--llmbench-missing=record")

    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*there is no module 'bench_step' on the path of the measuring process*"])
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


@pytest.mark.parametrize("returned", ["None", "0", "True", "2.0"])
def test_a_step_that_does_not_say_what_it_did_is_refused(module: Callable[[str], Case], returned: str) -> None:
    training = build_custom(module(f"def build(device): return lambda: {returned}"), Workload(), CPU)

    with pytest.raises(CaseError, match=f"a custom step returned {returned}; it must return how many samples"):
        training.micro_step(0)


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
