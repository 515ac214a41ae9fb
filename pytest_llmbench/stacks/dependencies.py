"""What packages declare to need: which can only change together, and whether an environment can build one."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pytest_llmbench.stacks.interpreter import Interpreter

__all__ = ["can_build", "implications", "needs"]

_WITHOUT_WORD = ("setuptools>=40.8.0",)
"""What builds a project that says nothing of it, by PEP 517."""


def implications(changed: Collection[str], good: Interpreter, bad: Interpreter) -> dict[str, frozenset[str]]:
    """
    For each of the packages *changed*: what else has to be as in *bad* if it is, itself included.

    By the declared needs of the versions in both environments: the new one of a package may need the
    new one of another, and the old one of another may not stand the new one of it.
    """
    direct: dict[str, set[str]] = {name: {name} for name in changed}
    for name, needed in _needs(changed, bad):
        if not _satisfied(needed, good):
            direct[name].add(canonicalize_name(needed.name))
    for name, needed in _needs(changed, good):
        if not _satisfied(needed, bad):
            direct[canonicalize_name(needed.name)].add(name)
    return {name: frozenset(_reached(name, direct)) for name in changed}


def needs(changed: Collection[str], environment: Interpreter) -> dict[str, frozenset[str]]:
    """For each of the packages *changed*: which others of them it declares to need, in one environment."""
    found: dict[str, set[str]] = {name: set() for name in changed}
    for name, needed in _needs(changed, environment):
        found[name].add(canonicalize_name(needed.name))
    return {name: frozenset(others) for name, others in found.items()}


def can_build(project: Path, environment: Interpreter) -> bool:
    """Tell whether an environment has what the sources of a package declare to be built with."""
    file = project / "pyproject.toml"
    try:
        about = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        wanted = [Requirement(one) for one in about.get("build-system", {}).get("requires", _WITHOUT_WORD)]
    except (OSError, ValueError, AttributeError, TypeError):  # the installer says what is wrong with it
        return False
    markers = _markers(environment)
    return all(_satisfied(one, environment) for one in wanted if one.marker is None or one.marker.evaluate(markers))


def _needs(changed: Collection[str], environment: Interpreter) -> Iterator[tuple[str, Requirement]]:
    """What a changed package needs of another, in one environment."""
    markers = _markers(environment)
    for name in changed:
        for text in environment.requires.get(name, ()):
            try:
                needed = Requirement(text)
            except InvalidRequirement:
                continue
            applies = needed.marker is None or needed.marker.evaluate(markers)
            if applies and canonicalize_name(needed.name) in changed:
                yield name, needed


def _markers(environment: Interpreter) -> dict[str, str]:
    return {
        "python_version": ".".join(map(str, environment.version[:2])),
        "python_full_version": ".".join(map(str, environment.version)),
        "extra": "",
    }


def _satisfied(needed: Requirement, environment: Interpreter) -> bool:
    version = environment.packages.get(canonicalize_name(needed.name))
    return version is not None and needed.specifier.contains(version, prereleases=True)


def _reached(start: str, direct: dict[str, set[str]]) -> set[str]:
    reached, waiting = {start}, [start]
    while waiting:
        new = direct[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached
