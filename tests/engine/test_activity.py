"""What the profiler's events come to: unions of intervals, and operators by name."""

from __future__ import annotations

import pytest
import torch

from pytest_llmbench.probes.activity import OperatorRecorder, union_seconds


@pytest.mark.parametrize(
    ("intervals", "nanoseconds"),
    [
        ([], 0),
        ([(0, 10)], 10),
        ([(0, 10), (20, 30)], 20),
        ([(0, 10), (5, 15)], 15),
        ([(0, 100), (10, 20), (30, 40)], 100),
        ([(20, 30), (0, 10)], 20),
        ([(0, 10), (10, 20)], 20),
    ],
)
def test_time_in_which_several_kernels_run_counts_once(intervals: list[tuple[int, int]], nanoseconds: int) -> None:
    assert union_seconds(intervals) == pytest.approx(nanoseconds / 1e9)


def test_operators_are_counted_with_those_nested_in_them() -> None:
    one = torch.ones(2, 2)

    with OperatorRecorder() as recorder:
        recorder.begin()
        one @ one
        recorder.boundary()
        one + one
        recorder.end()

    assert (recorder.micro_batches["aten::matmul"], recorder.micro_batches["aten::mm"]) == (1, 1)
    assert recorder.optimizer_step["aten::add"] == 1


def test_nodes_of_autograd_are_no_operators() -> None:
    weight = torch.ones(2, 2, requires_grad=True)

    with OperatorRecorder() as recorder:
        recorder.begin()
        (weight @ weight).sum().backward()
        recorder.boundary()
        recorder.end()

    assert recorder.micro_batches["aten::mm"] > 1
    assert not [name for name in recorder.micro_batches if "Backward" in name or "autograd" in name]


def test_an_error_in_a_pass_leaves_no_profiler_running() -> None:
    with pytest.raises(ZeroDivisionError), OperatorRecorder() as recorder:  # noqa: PT012 - the error is the body's
        recorder.begin()
        _ = 1 / 0

    with OperatorRecorder() as recorder:
        recorder.begin()
        torch.ones(1)
        recorder.boundary()
        recorder.end()
    assert recorder.micro_batches["aten::ones"] == 1
