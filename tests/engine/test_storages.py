"""The log of storages, and what a few lengths tell of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_llmbench.engine.fake.shapes import Shapes
from pytest_llmbench.probes.storages import Event, Features, NotAlike, Storages, Stretch, TooMany, template

MEGABYTE = 1_000_000


def logged(
    step: Callable[[Storages], Any], workspaces: Callable[[str, Sequence[Any]], list[int]] = lambda *_: []
) -> list[Stretch]:
    storages = Storages(workspaces)
    with Shapes() as mode:
        mode.observe = storages.ran
        step(storages)
    return storages.stretches


def megabytes(count: int) -> Tensor:
    return torch.empty(count * MEGABYTE // 4)


def sizes(stretch: Stretch) -> list[int]:
    return [event.size for event in stretch.events]


def test_a_storage_comes_with_its_size_and_goes() -> None:
    (build,) = logged(lambda _: megabytes(3))

    assert sizes(build) == [3 * MEGABYTE, -1]


def test_a_view_is_no_storage() -> None:
    def step(_: Storages) -> None:
        x = megabytes(1)
        x.view(-1, 10).t()
        del x

    (build,) = logged(step)

    assert sizes(build) == [MEGABYTE, -1]


def test_what_an_operator_writes_to_is_no_new_storage() -> None:
    (build,) = logged(lambda _: megabytes(1).add_(1).mul_(2))

    assert sizes(build) == [MEGABYTE, -1]


def test_every_tensor_that_an_operator_returns_is_noted() -> None:
    x = torch.empty(4, 8, dtype=torch.bool)

    (build,) = logged(lambda _: torch.ops.aten._fused_dropout(torch.empty(4, 8), 0.5))

    assert x.numel() == 32
    assert sorted(sizes(build)) == [-1, -1, -1, 32, 128, 128]


def test_a_storage_of_another_stretch_says_so_where_it_goes() -> None:
    def step(storages: Storages) -> None:
        kept = megabytes(1)
        storages.begin("next", 7)
        own = megabytes(2)
        del own, kept

    build, following = logged(step)

    assert sizes(build) == [MEGABYTE]
    assert (following.role, following.micro_batch) == ("next", 7)
    assert [(event.role, event.own, event.size) for event in following.events] == [
        ("next", True, 2 * MEGABYTE),
        ("next", True, -1),
        ("build", False, -1),
    ]


def test_the_workspace_of_a_kernel_is_gone_at_once() -> None:
    (build,) = logged(lambda _: megabytes(1) @ megabytes(1), lambda name, _: [512] if name == "aten::dot" else [])

    assert [event.size for event in build.events if "workspace" in event.name[0]] == [512, -1]


def test_a_stretch_that_never_ends_is_refused() -> None:
    storages = Storages(lambda *_: [], most=10)

    with Shapes() as mode, pytest.raises(TooMany, match="^more than 10 times a tensor comes or goes"):  # noqa: PT012
        mode.observe = storages.ran
        while True:
            megabytes(1)


def stretch(index: int, *taken: int, name: str = "aten::mm") -> Stretch:
    return Stretch("next", index, [Event("next", (name, count), 0, True, size) for count, size in enumerate(taken)], [])


def features(length: int) -> Features:
    return (1, length, -(-length // 128) * 128, length * length)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(lambda length: 512, id="whatever-the-length"),
        pytest.param(lambda length: 24 * length, id="the-length"),
        pytest.param(lambda length: 24 * length + 9, id="the-length-and-something"),
        pytest.param(lambda length: 2 * length * length, id="its-square"),
        pytest.param(lambda length: -(-length // 128) * 128 * 32, id="rounded"),
        pytest.param(lambda length: 3 * length * length + 5 * length, id="square-and-length"),
    ],
)
def test_a_few_lengths_tell_the_sizes_of_others(size: Callable[[int], int]) -> None:
    found = template([stretch(length, size(length)) for length in (100, 317, 544, 1033)], features)

    assert [event.size for event in found.at(features(811))] == [size(811)]


def test_a_further_length_refuses_sizes_that_no_polynomial_gives() -> None:
    def cubic(length: int) -> int:
        return length**3

    with pytest.raises(NotAlike, match=r"^aten::mm takes \(.*\) bytes, which no polynomial of the lengths gives$"):
        template([stretch(length, cubic(length)) for length in (100, 317, 544, 1033, 1500)], features)


def test_two_lengths_check_nothing_and_are_refused() -> None:
    with pytest.raises(NotAlike):
        template([stretch(length, 24 * length) for length in (100, 317)], features)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(stretch(317, 512, 512), id="one-more"),
        pytest.param(stretch(317, 512, name="aten::bmm"), id="of-another-operator"),
        pytest.param(stretch(317, -1), id="goes-instead"),
    ],
)
def test_micro_batches_that_make_other_tensors_are_not_alike(other: Stretch) -> None:
    with pytest.raises(NotAlike, match="^micro-batches 100 and 317 do not make the same tensors$"):
        template([stretch(100, 512), other], features)


def test_one_length_is_told_of_itself() -> None:
    found = template([stretch(100, 512, 1024)], features)

    assert [event.size for event in found.at(features(100))] == [512, 1024]
