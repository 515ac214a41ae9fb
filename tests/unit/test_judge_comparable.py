"""What makes two measurements not comparable, and what else is new between two that are."""

from __future__ import annotations

from typing import Any

import pytest

from measurements import measured
from pytest_llmbench.judge.comparable import differences, environment_changes
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import PackageChange
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
