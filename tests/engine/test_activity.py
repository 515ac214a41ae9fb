"""What the profiler's events come to: unions of intervals, and operators by name."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from pytest_llmbench.probes.activity import count_operators, union_seconds  # noqa: E402


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

    micro, step = count_operators(lambda: one @ one, lambda: one + one)

    assert (micro["aten::matmul"], micro["aten::mm"]) == (1, 1)
    assert step["aten::add"] == 1


def test_nodes_of_autograd_are_no_operators() -> None:
    weight = torch.ones(2, 2, requires_grad=True)

    micro, _ = count_operators(lambda: (weight @ weight).sum().backward(), lambda: None)

    assert micro["aten::mm"] > 1
    assert not [name for name in micro if "Backward" in name or "autograd" in name]
