"""Tensors of floats have a shape and no content; what is counted, masked or ordered by keeps its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_llmbench.engine.fake.shapes import Shapes, is_shape


@pytest.fixture(autouse=True)
def shapes() -> Iterator[Shapes]:
    with Shapes() as mode:
        yield mode


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torch.empty(3), id="empty"),
        pytest.param(lambda: torch.zeros(3), id="zeros"),
        pytest.param(lambda: torch.ones(3, dtype=torch.bfloat16), id="ones"),
        pytest.param(lambda: torch.full((3,), 0.5), id="full"),
        pytest.param(lambda: torch.randn(3), id="random"),
        pytest.param(lambda: torch.empty(3).new_zeros(4), id="of-another"),
    ],
)
def test_floats_have_no_content(make: Callable[[], Tensor]) -> None:
    assert is_shape(make())


@pytest.mark.parametrize(
    ("make", "values"),
    [
        pytest.param(lambda: torch.tensor([3, 1, 2]), [3, 1, 2], id="given"),
        pytest.param(lambda: torch.arange(3), [0, 1, 2], id="range"),
        pytest.param(lambda: torch.ones(2, dtype=torch.int64), [1, 1], id="ones"),
        pytest.param(lambda: torch.full((2,), 7), [7, 7], id="full"),
        pytest.param(lambda: torch.arange(3) > 1, [False, False, True], id="mask"),
        pytest.param(lambda: torch.ones(2, 2, dtype=torch.bool).tril().tolist()[0], [True, False], id="causal"),
        pytest.param(lambda: torch.tensor([1, 1, 0]).cumsum(-1), [1, 2, 2], id="positions"),
        pytest.param(lambda: torch.nonzero(torch.tensor([0, 4, 5])).flatten(), [1, 2], id="numbers-of-what-is-there"),
        pytest.param(lambda: torch.arange(0, 1, 0.5), [0.0, 0.5], id="range-of-floats"),
        pytest.param(lambda: torch.tensor([0.25]), [0.25], id="given-floats"),
    ],
)
def test_what_is_known_stays_known(make: Callable[[], Any], values: list[Any]) -> None:
    made = make()

    assert (made.tolist() if isinstance(made, Tensor) else made) == values


def test_a_mask_with_padding_is_told_from_one_without() -> None:
    assert [torch.tensor(mask).bool().all().item() for mask in ([1, 1], [1, 0])] == [True, False]


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda x: x.sum().item(), id="item"),
        pytest.param(lambda x: bool(x.any()), id="bool"),
        pytest.param(lambda x: x.tolist(), id="tolist"),
        pytest.param(lambda x: torch.nonzero(x > 0), id="nonzero"),
        pytest.param(lambda x: x[x > 0], id="mask"),
        pytest.param(lambda x: torch.equal(x, x + 1), id="equal"),
        pytest.param(lambda x: x.unique(), id="unique"),
    ],
)
def test_a_value_that_is_not_there_is_not_made_up(ask: Callable[[Tensor], Any]) -> None:
    x = torch.randn(4)

    with pytest.raises(RuntimeError):
        ask(x)


def twice(operator: Callable[[Tensor], Any]) -> tuple[Any, Any]:
    """What an operator says at first, and what is remembered of it."""
    return operator(torch.empty(4, 6)), operator(torch.empty(4, 6))


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(lambda x: x @ x.t(), id="product"),
        pytest.param(lambda x: x.t(), id="view"),
        pytest.param(lambda x: x[1:, ::2], id="slice"),
        pytest.param(lambda x: x.split(3, dim=1)[1], id="one-of-several"),
        pytest.param(lambda x: x.to(torch.bfloat16), id="another-dtype"),
        pytest.param(lambda x: x.max(dim=1).indices, id="integers-of-floats"),
        pytest.param(lambda x: x.expand(5, 4, 6).contiguous(), id="copy"),
    ],
)
def test_what_is_remembered_is_what_was_said_at_first(operator: Callable[[Tensor], Tensor]) -> None:
    first, again = twice(operator)

    assert [again.shape, again.stride(), again.dtype, again.storage_offset()] == [
        first.shape,
        first.stride(),
        first.dtype,
        first.storage_offset(),
    ]
    assert again.untyped_storage().nbytes() == first.untyped_storage().nbytes()


def test_a_view_that_is_remembered_shares_the_storage_of_its_own_base() -> None:
    bases = [torch.empty(4, 6) for _ in range(2)]

    views = [base.t() for base in bases]

    assert [view.untyped_storage()._cdata for view in views] == [base.untyped_storage()._cdata for base in bases]


def test_what_is_written_to_is_what_is_returned() -> None:
    def added(x: Tensor) -> bool:
        return x.add_(1) is x

    assert twice(added) == (True, True)


def test_numbers_that_are_equal_and_of_other_types_are_not_confused() -> None:
    mask = torch.empty(3) > 0

    assert [(mask * number).dtype for number in (1, 1.0, True)] == [torch.int64, torch.float32, torch.bool]


def test_gradients_have_the_shapes_of_what_they_are_of() -> None:
    weight = torch.nn.Parameter(torch.empty(6, 4))

    (torch.empty(3, 6) @ weight).sum().backward()

    assert weight.grad is not None
    assert is_shape(weight.grad)
    assert weight.grad.shape == weight.shape


def test_each_operator_is_told_of_once(shapes: Shapes) -> None:
    seen: list[str] = []
    x = torch.empty(4, 4)
    shapes.observe = lambda operator, _args, _result: seen.append(operator._schema.name)

    (x @ x).softmax(-1)

    assert seen == ["aten::mm", "aten::_softmax"]


def test_an_answer_for_one_device_is_not_given_for_another() -> None:
    nowhere = torch.empty(3, 5, device="meta").detach()
    here = torch.empty(3, 5).detach()

    assert (nowhere.device.type, here.device.type) == ("meta", "cpu")
