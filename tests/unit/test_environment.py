"""Fingerprints of machines: as folder names, and what is new between two of them."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmbench.schema.environment import (
    PACKAGES,
    Environment,
    PackageChange,
    differing_fields,
    installed_packages,
    package_changes,
)

ENVIRONMENT = Environment(
    device="NVIDIA H200",
    num_devices=1,
    device_memory_bytes=None,
    driver="580.1",
    cuda="13.0",
    power_limit_watts=700.0,
    allocator={},
    python="3.12.3",
    cpu="a CPU",
    num_cpus=16,
    system="Linux 6.8",
    packages={"torch": "2.11.0", "peft": "0.21.0"},
)


def changed(**fields: Any) -> Environment:
    return msgspec.structs.replace(ENVIRONMENT, **fields)


@pytest.mark.parametrize(
    ("device", "slug"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4-80gb"),
        ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090"),
        ("cpu", "cpu"),
        ("../../etc", "etc"),
        ("(?)", "unnamed-device"),
    ],
)
def test_a_device_is_a_folder_name(device: str, slug: str) -> None:
    assert changed(device=device).device_slug == slug


@given(st.text())
def test_any_device_is_a_folder_name(device: str) -> None:
    assert all(letter in "abcdefghijklmnopqrstuvwxyz0123456789-" for letter in changed(device=device).device_slug)


@pytest.mark.parametrize(
    ("fields", "differing"),
    [
        ({}, ()),
        ({"device": "NVIDIA A100"}, ("device",)),
        ({"num_devices": 2}, ("num_devices",)),
        ({"driver": "600.1", "cuda": "14.0", "packages": {}, "power_limit_watts": 300.0}, ()),
    ],
)
def test_gpu_model_and_count_must_agree(fields: dict[str, Any], differing: tuple[str, ...]) -> None:
    assert differing_fields(ENVIRONMENT, changed(**fields)) == differing


def test_nothing_changes_between_an_environment_and_itself() -> None:
    assert package_changes(ENVIRONMENT, ENVIRONMENT) == ()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"packages": {"torch": "2.12.0", "peft": "0.21.0"}}, ["torch 2.11.0 -> 2.12.0"]),
        ({"packages": {"torch": "2.11.0"}}, ["peft 0.21.0 (gone)"]),
        ({"packages": {"torch": "2.11.0", "peft": "0.21.0", "triton": "3.1"}}, ["triton 3.1 (new)"]),
        (
            {"driver": "600.1", "cuda": None, "python": "3.13.0"},
            ["driver 580.1 -> 600.1", "cuda 13.0 (gone)", "python 3.12.3 -> 3.13.0"],
        ),
        ({"num_cpus": 8, "system": "Linux 6.9"}, []),
    ],
)
def test_what_is_new_is_told(fields: dict[str, Any], told: list[str]) -> None:
    assert [str(change) for change in package_changes(ENVIRONMENT, changed(**fields))] == told


def test_a_change_backwards_is_the_change_with_its_sides_swapped() -> None:
    other = changed(driver="600.1", packages={"torch": "2.12.0", "triton": "3.1"})

    there, back = package_changes(ENVIRONMENT, other), package_changes(other, ENVIRONMENT)

    assert {PackageChange(one.name, one.after, one.before) for one in there} == set(back)


def test_installed_packages_are_those_that_count_with_their_versions() -> None:
    found = installed_packages()

    assert found["pytest-llmbench"] == metadata.version("pytest-llmbench")
    assert set(found) <= set(PACKAGES)
    assert "pytest" not in found


def test_an_environment_survives_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(ENVIRONMENT), type=Environment) == ENVIRONMENT
