"""
Where a measurement was taken: GPU, driver, CUDA, allocator settings, CPU, and package versions.

Knows which fields must agree before two measurements compare at all, and names what changed
between two environments that do.
"""

from __future__ import annotations

import re
from importlib import metadata

import msgspec

from pytest_llmbench.schema import extensions
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.libraries import LIBRARIES

__all__ = ["PACKAGES", "Environment", "PackageChange", "differing_fields", "installed_packages", "package_changes"]

PACKAGES = tuple(library.distribution for library in LIBRARIES)
"""Distributions that can move a training step, in the order in which reports name them."""
"""The distributions whose versions can move a training step; absent ones are not recorded."""


class Environment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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

    @property
    def device_slug(self) -> str:
        """The device as a folder name: lower case, runs of anything else than letters and digits as "-"."""
        return re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-") or "unnamed-device"


class PackageChange(msgspec.Struct, frozen=True):
    """One package that is not the same on both sides; None where it is not installed."""

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.name} {self.after} (new)"
        if self.after is None:
            return f"{self.name} {self.before} (gone)"
        return f"{self.name} {self.before} -> {self.after}"


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

    Driver, CUDA and Python count as packages here: to a user they are upgrades like any other.
    """
    old = {"driver": before.driver, "cuda": before.cuda, "python": before.python, **before.packages}
    new = {"driver": after.driver, "cuda": after.cuda, "python": after.python, **after.packages}
    names = [*old, *(name for name in new if name not in old)]
    return tuple(PackageChange(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name))
