"""Libraries of the training stack that are older here than this package declares to need."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from importlib import metadata

__all__ = ["outside"]


def outside(extras: Collection[str]) -> Iterator[str]:
    """
    A sentence for each installed library that an extra of this package declares another version of.

    None where the environment has no `packaging`, or no metadata of this package.
    """
    with suppress(ImportError):  # PackageNotFoundError is one
        from packaging.requirements import Requirement

        for text in metadata.requires("pytest-llmbench") or ():
            needed = Requirement(text)
            of_stack = needed.marker is not None and any(needed.marker.evaluate({"extra": extra}) for extra in extras)
            if not of_stack:
                continue
            with suppress(metadata.PackageNotFoundError):
                version = metadata.version(needed.name)
                if not needed.specifier.contains(version, prereleases=True):
                    bounds = ", ".join(f"{one.operator} {one.version}" for one in sorted(needed.specifier, key=str))
                    yield f"pytest-llmbench needs {needed.name} {bounds}, and {version} is installed"
