"""Who asked for the memory that is alive at the peak of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_llmbench.probes.allocations import (
    BEFORE,
    LISTED,
    REST,
    Allocation,
    PeakRecorder,
    alive_at_peak,
    shares,
)
from torch import Tensor, nn

from pytest_llmbench.schema.measurement import AllocationShare

CPU = torch.device("cpu")
MEGABYTE = 1_000_000
HERE = "engine/test_allocations.py"


def recorded(step: Callable[[], object]) -> dict[str, AllocationShare]:
    with PeakRecorder() as recorder:
        recorder.begin()
        step()
        recorder.end()
    return {share.name: share for share in recorder.shares(CPU)}


def megabytes(count: int) -> Tensor:
    return torch.empty(count * MEGABYTE, dtype=torch.uint8)


def named(found: dict[str, AllocationShare], operator: str, function: str) -> AllocationShare:
    (share,) = (
        share for name, share in found.items() if name.startswith(f"{operator} in {function} (") and HERE in name
    )
    return share


def test_tensors_that_are_alive_together_are_named_by_operator_function_and_file() -> None:
    def step() -> list[Tensor]:
        return [megabytes(3), megabytes(4)]

    share = named(recorded(step), "aten::empty", "megabytes")
    assert (share.count, share.bytes) == (2, 7 * MEGABYTE)


def test_what_was_given_back_before_the_peak_is_no_part_of_it() -> None:
    def step() -> Tensor:
        megabytes(3)
        return megabytes(4)

    share = named(recorded(step), "aten::empty", "megabytes")

    assert (share.count, share.bytes) == (1, 4 * MEGABYTE)


class Doubled(nn.Module):  # type: ignore[misc]  # where torch is not installed
    def forward(self, x: Tensor) -> Tensor:
        return x + x


def test_a_forward_is_named_by_its_module() -> None:
    module, x = Doubled(), torch.ones(MEGABYTE)

    share = named(recorded(lambda: module(x)), "aten::add", "Doubled.forward")

    assert share.bytes == 4 * MEGABYTE


def test_what_backward_asks_for_is_named_by_its_node() -> None:
    left, right = torch.ones(500, 500, requires_grad=True), torch.ones(500, 500)

    found = recorded(lambda: (left @ right).sum().backward())

    assert found["aten::mm in MmBackward0"].bytes >= 500 * 500 * 4


def test_on_another_device_there_is_nothing() -> None:
    with PeakRecorder() as recorder:
        recorder.begin()
        megabytes(1)
        recorder.end()

    assert recorder.shares(torch.device("cuda", 0)) == ()


class Event:
    """The end of a chain of parents: an operator within nothing."""

    parent = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.typed = (type("Tag", (), {"name": "TorchOp"}), None)


def allocation(at: int, pointer: int, count_bytes: int, total_bytes: int, operator: str = "") -> Allocation:
    inner: Any = type("Inner", (), {"parent": Event(operator)})
    return Allocation(at, pointer, count_bytes, total_bytes, inner)


def test_the_peak_counts_what_was_there_before() -> None:
    events = [
        allocation(2, 7, 50, 150),
        allocation(1, 5, 100, 100),
        allocation(3, 1, -90, 60),
        allocation(4, 5, -60, 0),
    ]

    total, alive = alive_at_peak(events)

    assert total == 150
    assert [one.pointer for one in alive] == [5, 7]


def test_memory_whose_origin_was_not_seen_is_that_from_before_the_step() -> None:
    (own, before) = shares(1000, [allocation(1, 1, 400, 1000, "aten::mm")])

    assert own == AllocationShare("aten::mm", 1, 400)
    assert before == AllocationShare(BEFORE, None, 600)


def test_small_origins_are_one() -> None:
    alive = [allocation(size, size, size, 0, f"aten::op{size}") for size in range(1, LISTED + 3)]

    *listed, rest = shares(0, alive)

    assert len(listed) == LISTED
    assert rest == AllocationShare(REST, 2, 1 + 2)


def test_an_error_in_the_pass_leaves_no_profiler_running() -> None:
    with pytest.raises(ZeroDivisionError), PeakRecorder() as recorder:  # noqa: PT012 - the error is the body's
        recorder.begin()
        _ = 1 / 0

    assert recorded(lambda: megabytes(1))


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # said once of every profile
def test_on_a_gpu_the_allocator_tells_all_that_is_there() -> None:
    gpu = torch.device("cuda", 0)
    before = torch.empty(2**20, dtype=torch.uint8, device=gpu)

    with PeakRecorder() as recorder:
        recorder.begin()
        more = [torch.empty(3 * 2**20, dtype=torch.uint8, device=gpu) for _ in range(2)]
        recorder.end()

    asked, there = recorder.shares(gpu)
    assert (asked.count, asked.bytes) == (2, sum(one.nbytes for one in more))
    assert asked.name.startswith("aten::empty in ")
    assert there.name == BEFORE
    assert before.nbytes <= there.bytes == torch.cuda.memory_allocated() - asked.bytes
