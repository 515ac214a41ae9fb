"""Whether two measurements compare at all, and what else is new between two that do."""

from __future__ import annotations

from pytest_llmbench.schema.environment import (
    Environment,
    PackageChange,
    differing_fields,
    is_code_known,
    package_changes,
    repository_change,
)
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.workload import workload_version

__all__ = ["around", "differences", "environment_changes"]


def differences(then: Measurement, now: Measurement, then_version: int | None) -> dict[str, tuple[object, object]]:
    """
    What must agree and does not, by name, with the value then and now; empty if the two compare.

    Covers GPU model and count, and everything in the workload hash, field by field.

    Args:
        then_version: `workload.workload_version` when *then* was measured; None for that of today.
    """
    if then.environment is None or now.environment is None:
        return {"environment": (_known(then), _known(now))}
    found: dict[str, tuple[object, object]] = {
        name: (getattr(then.environment, name), getattr(now.environment, name))
        for name in differing_fields(then.environment, now.environment)
    }
    for name in now.case.__struct_fields__:
        found[f"case.{name}"] = (getattr(then.case, name), getattr(now.case, name))
    for name in ("scale", "samples"):
        found[f"workload.{name}"] = (getattr(then.workload, name), getattr(now.workload, name))
    version = workload_version(now.case)
    found["workload version"] = (version if then_version is None else then_version, version)
    return {name: (old, new) for name, (old, new) in found.items() if old != new}


def environment_changes(
    before: Environment | None, after: Environment | None
) -> tuple[tuple[PackageChange, ...], tuple[str, ...]]:
    """
    What is new, and the names of what is the same; both empty where an environment is unknown.

    Allocator settings count here, beside packages, driver, CUDA and Python: they move memory just as well.
    """
    if before is None or after is None:
        return (), ()
    variables = [*before.allocator, *(name for name in after.allocator if name not in before.allocator)]
    settings = (PackageChange(name, before.allocator.get(name), after.allocator.get(name)) for name in variables)
    changes = (*package_changes(before, after), *(change for change in settings if change.before != change.after))
    changed = {change.name for change in changes}
    unchanged = tuple(name for name in ("driver", "cuda", "python", *before.packages) if name not in changed)
    return changes, unchanged


def around(before: Environment | None, after: Environment | None) -> tuple[tuple[PackageChange, ...], bool]:
    """
    What is told beside `environment_changes` and makes no other environment: the repository under test.

    And whether the files of all packages are known on both sides.
    """
    if before is None or after is None:
        return (), True
    change = repository_change(before, after)
    return () if change is None else (change,), is_code_known(before, after)


def _known(measurement: Measurement) -> str:
    return "unknown" if measurement.environment is None else "known"
