"""
Models that other packages offer by the entry points `pytest_llmbench.models`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace
from transformers import PreTrainedModel

from pytest_llmbench.engine.models.architecture import Architecture
from pytest_llmbench.engine.models.hub import ModelUnavailable
from pytest_llmbench.schema import extensions

__all__ = ["OfferedModel", "extension", "find_model"]


class OfferedModel(NamedTuple):
    """What an entry point leads to."""

    architecture: Architecture
    """Its sizes, with the family `extension`; of the name, that of the entry point counts."""
    build: Callable[[Architecture, str], PreTrainedModel]
    """
    From sizes, which may be those of a miniature, and what transformers calls the attention, to a model
    whose weights the caller keeps from taking memory.
    """


def find_model(name: str) -> OfferedModel:
    """
    Raises:
        ModelUnavailable: no package offers it, or the one that does is broken.
    """
    try:
        found = extensions.load("models", name)
    except extensions.ExtensionError as error:
        raise ModelUnavailable(f"model {name}: {error}") from error
    if not isinstance(found, OfferedModel):
        raise ModelUnavailable(f"model {name}: its entry point is no OfferedModel but {found!r}")
    return found._replace(architecture=replace(found.architecture, name=name, family="extension"))


def extension(architecture: Architecture, attention_implementation: str) -> PreTrainedModel:
    """The model of another package without its weights."""
    return find_model(architecture.name).build(architecture, attention_implementation)
