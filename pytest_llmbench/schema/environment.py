"""
Where a measurement was taken, and of which code: GPU, driver, CUDA, allocator settings, CPU, packages.

Knows which fields must agree before two measurements compare at all, and names what changed
between two environments that do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import NamedTuple, Protocol

import msgspec

from pytest_llmbench.schema import extensions
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.libraries import LIBRARIES

__all__ = [
    "MOST_EDITED",
    "PACKAGES",
    "REPOSITORY",
    "CiRun",
    "Environment",
    "Installed",
    "Origin",
    "PackageChange",
    "Repository",
    "Software",
    "changes",
    "differing_fields",
    "installed_packages",
    "is_code_known",
    "package_changes",
    "repository_change",
    "version_text",
]

PACKAGES = tuple(library.distribution for library in LIBRARIES)
"""The distributions whose versions can move a training step; absent ones are not recorded."""


REPOSITORY = "repository"
"""What the repository under test is called among the changes."""
MOST_EDITED = 20
"""Edited files that an origin names."""
_TOLD_FILES = 3


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which code an installed distribution is, beyond its version."""

    commit: str | None = None
    """The commit that it was installed from (PEP 610), or that is checked out where it is installed editable."""
    editable: bool = False
    """Whether it is read from where it is developed."""
    digest: str
    """Twelve hexadecimal digits that agree exactly when its files do."""
    edited: dict[str, str] = {}
    """
    Files that are not as they were installed, or not as in the commit: name to eight digits of the content,
    none of a file that is gone. The first `MOST_EDITED` by name.
    """


class Repository(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The repository under test."""

    commit: str
    branch: str | None = None
    dirty: bool | None = None
    """Whether a file that git follows is not as it was committed; None if git does not say."""

    def __str__(self) -> str:
        branch = f" ({self.branch})" if self.branch else ""
        return f"{self.commit[:7]}{branch}{', with changes' if self.dirty else ''}"


class CiRun(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The run of a CI service that measured."""

    service: str
    id: str | None = None
    url: str | None = None
    """Without credentials."""

    def __str__(self) -> str:
        return self.url or " ".join(filter(None, [self.service, self.id]))


class Environment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Fingerprint of the machine and the interpreter of one measuring process."""

    device: str
    """GPU model as NVML names it ("NVIDIA H200"), or "cpu"."""
    num_devices: int
    """GPUs that the case used; 1 for the CPU."""
    device_memory_bytes: int | None
    """Total memory of one device, driver-reserved part included."""
    driver: str | None
    cuda: str | None
    """CUDA version that torch was built for; None for a CPU build."""
    power_limit_watts: float | None
    allocator: dict[str, str]
    """Environment variables that steer the caching allocator, and its backend."""
    python: str
    cpu: str
    num_cpus: int
    """CPUs that the process may run on."""
    system: str
    """Operating system and kernel release."""
    packages: dict[str, str]
    """Distribution name to version, of those in `PACKAGES` that are installed and those that offer parts of the case."""
    origins: dict[str, Origin] | None = None
    """By distribution name, of all whose files could be read; None in what was measured before anybody looked."""
    repository: Repository | None = None
    """The repository under test; None without one."""
    ci: CiRun | None = None
    """None outside CI."""

    @property
    def device_slug(self) -> str:
        """The device as a folder name: lower case, runs of anything else than letters and digits as "-"."""
        return re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-") or "unnamed-device"


class PackageChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """One package that is not the same on both sides; None where it is not installed."""

    name: str
    before: str | None
    """Version, and commit where it is known."""
    after: str | None
    files: tuple[str, ...] | None = None
    """Files that differ beyond version and commit, as far as they can be named; None if none does."""

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.name} {self.after} (new)"
        if self.after is None:
            return f"{self.name} {self.before} (gone)"
        if self.before == self.after:
            return f"{self.name} {self.after_text}"
        return f"{self.name} {self.before} -> {self.after_text}"

    @property
    def after_text(self) -> str:
        """The side after, with the files that differ."""
        return f"{self.after or ''}{_files_text(self.files)}"


def installed_packages(case: Case | None = None) -> dict[str, str]:
    """Versions of the `PACKAGES` that this interpreter can import, and of those that offer parts of *case*; unimported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    parts = (case.model, case.attention, case.quantization) if case else ()
    return found | extensions.packages(filter(extensions.is_extension, parts))


def differing_fields(one: Environment, other: Environment) -> tuple[str, ...]:
    """The fields that must agree for two measurements to compare, and do not: GPU model and count."""
    return tuple(name for name in ("device", "num_devices") if getattr(one, name) != getattr(other, name))


def package_changes(before: Environment, after: Environment) -> tuple[PackageChange, ...]:
    """
    What else than the measured case may have moved a metric, in `PACKAGES` order.

    Driver, CUDA and Python count as packages here: to a user they are upgrades like any other. A package whose
    files differ has changed, whatever its version says; where the files of a side are unknown, the version decides.
    """
    old, new = _software(before), _software(after)
    return changes([*old.packages, *(name for name in new.packages if name not in old.packages)], old, new)


class Installed(Protocol):
    """What is installed on one side of a comparison."""

    @property
    def packages(self) -> Mapping[str, str]:
        """Name to version, Python included."""

    @property
    def origins(self) -> Mapping[str, Origin] | None:
        """Which code they are; None where nobody looked."""


class Software(NamedTuple):
    """Packages of one side."""

    packages: Mapping[str, str]
    origins: Mapping[str, Origin] | None = None


def changes(names: Iterable[str], before: Installed, after: Installed) -> tuple[PackageChange, ...]:
    """How the packages *names* differ between two sides."""
    old, new = before.origins or {}, after.origins or {}
    pythons = {".".join(side.packages.get("python", "").split(".")[:2]) for side in (before, after)}
    if len(pythons) > 1:
        old, new = _without_builds(old), _without_builds(new)
    found = (
        _change((name, before.packages.get(name), after.packages.get(name)), old.get(name), new.get(name))
        for name in names
    )
    return tuple(filter(None, found))


def is_code_known(before: Environment, after: Environment) -> bool:
    """Whether the files of every package are known on both sides, so that none can differ unseen."""
    return all(side.origins is not None and side.packages.keys() <= side.origins.keys() for side in (before, after))


def repository_change(before: Environment, after: Environment) -> PackageChange | None:
    """The repository under test, where it is known on both sides and another commit or another state of one."""
    old, new = before.repository, after.repository
    if old is None or new is None or (old.commit, old.dirty) == (new.commit, new.dirty):
        return None
    return PackageChange(REPOSITORY, str(old), str(new))


def version_text(version: str, origin: Origin | None) -> str:
    """A version with all that is known of the code, as `5.24.0@1a2b3c4, editable, files changed: trainer.py`."""
    if origin is None:
        return version
    editable = ", editable" if origin.editable else ""
    return f"{_label(version, origin)}{editable}{_files_text(tuple(origin.edited) or None)}"


def _software(environment: Environment) -> Software:
    beside = {"driver": environment.driver, "cuda": environment.cuda, "python": environment.python}
    known = {name: version for name, version in beside.items() if version is not None}
    return Software({**known, **environment.packages}, environment.origins)


def _change(named: tuple[str, str | None, str | None], was: Origin | None, now: Origin | None) -> PackageChange | None:
    """None for a package that is the same: by its files where they are known, else by its version."""
    name, old, new = named
    files = None
    if was is not None and now is not None and was.digest != now.digest:
        files = tuple(sorted(one for one in {*was.edited, *now.edited} if was.edited.get(one) != now.edited.get(one)))
    if old == new and files is None:
        return None
    before, after = _label(old, was), _label(new, now)
    return PackageChange(name, before, after, files or (files if before == after else None))


def _label(version: str | None, origin: Origin | None) -> str | None:
    if version is None or origin is None or origin.commit is None:
        return version
    return f"{version}@{origin.commit[:7]}"


def _files_text(files: tuple[str, ...] | None) -> str:
    if files is None:
        return ""
    more = f" and {len(files) - _TOLD_FILES} more" if len(files) > _TOLD_FILES else ""
    return ", files changed" + (f": {', '.join(files[:_TOLD_FILES])}{more}" if files else "")


def _without_builds(origins: Mapping[str, Origin]) -> dict[str, Origin]:
    """Origins that tell no more than the commit and the edited files do: each Python has builds of its own."""
    told = {name: f"{one.commit} {sorted(one.edited.items())}" for name, one in origins.items()}
    return {name: msgspec.structs.replace(one, digest=told[name]) for name, one in origins.items()}
