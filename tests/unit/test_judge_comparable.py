"""What makes two measurements not comparable, and what else is new between two that are."""

from __future__ import annotations

from typing import Any

import pytest

from measurements import measured
from pytest_llmbench.judge.comparable import differences, environment_changes
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Origin, PackageChange, Repository
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.workload import WORKLOAD_VERSION, Workload
from surroundings import environment

THEN = measured({})


def between(now: Measurement, then: Measurement = THEN, version: int = WORKLOAD_VERSION) -> dict[str, Any]:
    return differences(then, now, version)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, {}),
        ({"environment": environment(device="NVIDIA H100")}, {"device": ("NVIDIA H200", "NVIDIA H100")}),
        ({"environment": environment(num_devices=2)}, {"num_devices": (1, 2)}),
        ({"case": Case(model="qwen-14b-chat")}, {"case.model": ("qwen-7b-chat", "qwen-14b-chat")}),
        ({"workload": Workload(scale="smoke")}, {"workload.scale": ("full", "smoke")}),
        ({"workload": Workload(samples=8)}, {"workload.samples": (16, 8)}),
        ({"environment": None}, {"environment": ("known", "unknown")}),
    ],
)
def test_what_differs_is_told_with_the_value_then_and_now(change: dict[str, Any], found: dict[str, Any]) -> None:
    assert between(measured({}, **change)) == found


def test_an_environment_that_was_not_known_then_compares_with_none() -> None:
    assert between(THEN, measured({}, environment=None)) == {"environment": ("unknown", "known")}


def test_another_workload_version_does_not_compare() -> None:
    assert between(THEN, version=0) == {"workload version": (0, WORKLOAD_VERSION)}


def test_packages_and_settings_that_are_new_are_told_and_the_others_are_the_same() -> None:
    before = environment(packages={"torch": "1", "peft": "1"}, allocator={"A": "1", "B": "1"}, driver="5")
    after = environment(packages={"torch": "2", "peft": "1"}, allocator={"A": "2", "C": "1"}, driver="5")

    changes, unchanged = environment_changes(before, after)

    assert [str(change) for change in changes if change.name == "torch"] == ["torch 1 -> 2"]
    assert [change for change in changes if change.name != "torch"] == [
        PackageChange("A", "1", "2"),
        PackageChange("B", "1", None),
        PackageChange("C", None, "1"),
    ]
    assert unchanged == ("driver", "cuda", "python", "peft")


@pytest.mark.parametrize("known", [(None, environment()), (environment(), None)])
def test_of_an_environment_that_is_not_known_nothing_is_told(known: tuple[Any, Any]) -> None:
    assert environment_changes(*known) == ((), ())


def test_edited_files_make_another_environment_and_are_named() -> None:
    def side(moved: float, **origin: Any) -> Measurement:
        origins = {"peft": Origin(**origin)}
        where = environment(packages={"peft": "0.21.2"}, origins=origins)
        return measured({"moved_bytes_per_sample": moved}, environment=where)

    same = judge(side(1001.0, digest="0"), Reference(measurement=side(1000.0, digest="0")))
    row = judge(side(1001.0, digest="1", edited={"a.py": "1"}), Reference(measurement=side(1000.0, digest="0")))

    assert (same.status, row.status) == ("regressed", "unchanged")
    assert list(map(str, row.package_changes)) == ["peft 0.21.2, files changed: a.py"]


def test_another_commit_under_test_is_told_and_is_the_same_environment() -> None:
    def side(operators: float, commit: str) -> Measurement:
        where = environment(repository=Repository(commit))
        return measured({"operators_per_sample": operators}, environment=where)

    row = judge(side(1001.0, "2" * 40), Reference(measurement=side(1000.0, "1" * 40)))

    assert row.status == "regressed"
    assert list(map(str, row.package_changes)) == ["repository 1111111 -> 2222222"]
