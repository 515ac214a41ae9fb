"""What an optimizer keeps is named among the tensors that are alive at the peak."""

from __future__ import annotations

import torch

from pytest_llmbench.probes.operations import BEFORE, OperationRecorder

CPU = torch.device("cpu")


def alive(optimizer: torch.optim.Optimizer | None) -> dict[str, int]:
    with OperationRecorder(CPU, optimizer) as recorder:
        torch.zeros(1)
        position = recorder.memory.position()[CPU]
        return {str(asked): size for asked, size in recorder.memory.live(CPU, position).items()}


def test_states_of_the_optimizer_are_named_and_no_part_of_what_else_was_there() -> None:
    weight = torch.nn.Parameter(torch.ones(1000))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()

    named, unnamed = alive(optimizer), alive(None)

    assert named["exp_avg of the optimizer"] == named["exp_avg_sq of the optimizer"] == 4000
    assert named[BEFORE] == unnamed[BEFORE] - 8000 - named["step of the optimizer"]
