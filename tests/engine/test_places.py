"""Names of places: no folder of a machine, and the same function under every version of Python."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType

import pytest
from torch import nn
from transformers.activations import GELUActivation

from pytest_llmbench.probes.places import Place, Places, function_name

HERE = f"{__name__.replace('.', '/')}.py"


def here() -> FrameType:
    return sys._getframe(1)


class Holder:
    def method(self) -> FrameType:
        return here()

    def comprehension(self) -> FrameType:
        (frame,) = [here() for _ in range(1)]
        return frame

    def generator(self) -> FrameType:
        return next(here() for _ in range(1))


class Asking(nn.Module):  # type: ignore[misc]  # where torch is not installed
    def forward(self) -> FrameType:
        return here()


@pytest.mark.parametrize("function", ["method", "comprehension", "generator"])
def test_a_function_is_named_by_file_and_class_and_what_is_in_it_too(function: str) -> None:
    assert function_name(getattr(Holder(), function)()) == f"{HERE}:Holder.{function}"


def test_a_module_of_a_package_is_named_within_it() -> None:
    seen: list[str] = []
    module = GELUActivation()
    module.act = lambda _: seen.append(function_name(sys._getframe(1)))

    module(None)

    assert seen == ["transformers/activations.py:GELUActivation.forward"]


def test_torch_is_passed_over() -> None:
    place = Places().innermost(Asking()())

    assert place == Place(f"{HERE}:Asking.forward", "library")


def test_the_standard_library_is_passed_over() -> None:
    @contextlib.contextmanager
    def entered() -> Iterator[None]:
        found.append(Places().innermost(here()))
        yield

    found: list[Place | None] = []
    with entered():
        pass

    assert found[0] is not None
    assert found[0].name.startswith(f"{HERE}:")
