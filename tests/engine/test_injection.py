"""What is planted, and when it is there."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest
import torch

from pytest_llmbench.engine.injection import Injected
from pytest_llmbench.engine.loop import Watch, run_steps
from pytest_llmbench.engine.training import Training, build_fine_tuning
from pytest_llmbench.schema.case import Case, CaseError
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import Injection, Workload

CPU = torch.device("cpu")
BYTES = 12_347
"""Of no other tensor."""
SMOKE = Workload(scale="smoke", device="cpu", samples=4)


@pytest.fixture(scope="module", name="training")
def _training() -> Training:
    return build_fine_tuning(Case(model="qwen-7b-chat", accumulation_steps=2), SMOKE, CPU)


def planted() -> int:
    """Tensors of that size that are alive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects warn when they are looked at
        return sum(torch.is_tensor(one) and one.numel() == BYTES for one in gc.get_objects())


class Seen(Watch):
    """How many were there at each event of the step."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def micro_batch_ended(self, result: StepResult) -> None:
        self.events.append(("micro-batch", planted()))

    def gradients_ready(self) -> None:
        self.events.append(("gradients", planted()))

    def step_ended(self) -> None:
        self.events.append(("step", planted()))


class Within(Seen):
    """Looks while a micro-batch runs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._hook = model.register_forward_hook(lambda *_: self.events.append(("forward", planted())))

    def close(self) -> None:
        self._hook.remove()


@pytest.mark.parametrize(
    ("kind", "during"),
    [("memory", {"forward": 1, "gradients": 0, "step": 0}), ("memory-idle", {"forward": 0, "gradients": 0, "step": 1})],
)
def test_memory_is_held_when_its_kind_says(training: Training, kind: str, during: dict[str, int]) -> None:
    injected = Injected(training, Injection(kind, BYTES), CPU, 0.0)  # type: ignore[arg-type]
    watch = Within(training.model)
    try:
        run_steps(injected, [[0, 1], [2, 3]], watch)
    finally:
        watch.close()

    seen = {name: {count for event, count in watch.events if event == name} for name in during}
    assert seen == {name: {count} for name, count in during.items()}


@pytest.mark.parametrize("kind", ["device", "memory-outside"])
def test_what_is_planted_on_a_gpu_needs_one(training: Training, kind: str) -> None:
    with pytest.raises(CaseError, match="GPU"):
        Injected(training, Injection(kind, 1.0), CPU, 1.0)  # type: ignore[arg-type]


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_outside_torch_is_seen_by_the_driver_only() -> None:
    device = torch.device("cuda", 0)
    training = build_fine_tuning(Case(model="qwen-7b-chat"), Workload(scale="smoke", samples=4), device)
    free, reserved = torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved()

    Injected(training, Injection("memory-outside", 256 * 2**20), device, 0.0)

    assert free - torch.cuda.mem_get_info()[0] >= 256 * 2**20
    assert torch.cuda.memory_reserved() == reserved
