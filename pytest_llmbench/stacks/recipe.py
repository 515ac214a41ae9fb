"""How one environment of a bisection is made: from requirements, or with a package as it was at a commit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from pytest_llmbench.stacks.history import Commit, History
from pytest_llmbench.stacks.requirements import Requirements
from pytest_llmbench.stacks.stack import Source, build_environment

__all__ = ["AtCommit", "Listed", "Recipe"]


class Recipe(Protocol):
    """Makes one environment."""

    @property
    def key(self) -> str:
        """Text that tells it from every other."""

    def build(self, folder: Path, source: Source, say: Callable[[str], None]) -> Path:
        """
        Make the environment in *folder*, and give back its interpreter.

        Raises:
            StackError: it cannot be made; an `InstallError` if what is installed is to blame.
        """


class Listed(msgspec.Struct, frozen=True):
    """An environment with what requirements ask for."""

    requirements: Requirements

    @property
    def key(self) -> str:
        return self.requirements.text

    def build(self, folder: Path, source: Source, say: Callable[[str], None]) -> Path:
        return build_environment(folder, _written(self.requirements, folder), source, say)


class AtCommit(msgspec.Struct, frozen=True, kw_only=True):
    """An environment with a package that is installed from a checkout."""

    history: History
    package: str
    commit: Commit
    beside: Requirements | None = None
    """What else is installed, with what all of it needs; None for a package that takes from the base what it needs."""

    @property
    def key(self) -> str:
        return f"{self.package}\0{self.commit.hash}\0{self.beside.text if self.beside else ''}"

    def build(self, folder: Path, source: Source, say: Callable[[str], None]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        checkout = folder / "source"
        self.history.check_out(self.commit, checkout)
        line = {self.package: f"{self.package} @ {checkout.as_uri()}"}
        if self.beside is None:
            requirements = _written(Requirements((), line), folder)
            return build_environment(folder, requirements, source, say, project=checkout)
        requirements = _written(Requirements(self.beside.options, self.beside.lines | line), folder)
        return build_environment(folder, requirements, source, say)


def _written(requirements: Requirements, folder: Path) -> Path:
    """The file of requirements, in the folder of the environment, with which it is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    named = hashlib.sha256(requirements.text.encode()).hexdigest()[:12]
    file = folder / f"{named}.txt"
    file.touch(mode=0o600)  # it may have credentials
    file.write_text(requirements.text, encoding="utf-8")
    return file
