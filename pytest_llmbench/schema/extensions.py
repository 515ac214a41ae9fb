"""
What other installed packages add: models, attentions, quantizations, metrics and probes, by entry points.

An extension is called `package:name`, so that a case which asks for one can be read where it is not
installed; there its row is unavailable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any, Literal, get_args

__all__ = ["PATTERN", "ExtensionError", "Kind", "is_extension", "load", "offered", "packages"]

Kind = Literal["models", "attentions", "quantizations", "metrics", "probes"]
"""The group of entry points is `pytest_llmbench.<kind>`."""

PATTERN = r"[\w.-]+:[\w.-]+"
"""Of a name."""


class ExtensionError(Exception):
    """No installed package offers it, or the one that does is broken; the message says which and why."""


def is_extension(name: str) -> bool:
    return re.fullmatch(PATTERN, name) is not None


def offered(kind: Kind) -> tuple[str, ...]:
    """The names that installed packages offer, nothing of them loaded."""
    return tuple(sorted({entry.name for entry in metadata.entry_points(group=f"pytest_llmbench.{kind}")}))


def packages(names: Iterable[str]) -> dict[str, str]:
    """Names and versions of the distributions that offer these, as far as they are installed."""
    wanted = set(names)
    found = {}
    for kind in get_args(Kind) if wanted else ():
        for entry in metadata.entry_points(group=f"pytest_llmbench.{kind}"):
            if entry.name in wanted and entry.dist is not None:
                found[entry.dist.name] = entry.dist.version
    return found


def load(kind: Kind, name: str) -> Any:
    """
    What stands behind an entry point.

    Raises:
        ExtensionError: no package offers it, or it does not load.
    """
    group = f"pytest_llmbench.{kind}"
    entry = next(iter(metadata.entry_points(group=group, name=name)), None)
    if entry is None:
        raise ExtensionError(f"no installed package offers {name} among the entry points {group}")
    try:
        return entry.load()
    except Exception as error:
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        raise ExtensionError(f"{name} of {package} does not load: {type(error).__name__}: {error}") from error
