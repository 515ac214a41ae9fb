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
    Origin,
    PackageChange,
    Repository,
    differing_fields,
    installed_packages,
    is_code_known,
    package_changes,
    repository_change,
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


def code(digest: str = "0", **fields: Any) -> dict[str, Origin]:
    return {"peft": Origin(digest=digest, **fields), "torch": Origin(digest="t")}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (code(), code(), []),
        (None, code("1"), []),
        (code("0", commit="1a2b3c4d"), code("1", commit="5d6e7f8a"), ["peft 0.21.0@1a2b3c4 -> 0.21.0@5d6e7f8"]),
        (code("0", commit="1a2b3c4d"), code("0", commit="5d6e7f8a"), []),
        (code(), code("1", edited={"a.py": "1", "b.py": "2"}), ["peft 0.21.0, files changed: a.py, b.py"]),
        (code("1", edited={"a.py": "1"}), code("2", edited={"a.py": "2"}), ["peft 0.21.0, files changed: a.py"]),
        (code("0"), code("1"), ["peft 0.21.0, files changed"]),
        (
            code("0", commit="1a2b3c4d"),
            code("1", commit="1a2b3c4d", editable=True, edited={"a.py": "1"}),
            ["peft 0.21.0@1a2b3c4, files changed: a.py"],
        ),
        (
            code("0"),
            code("1", edited=dict.fromkeys(["a.py", "b.py", "c.py", "d.py", "e.py"], "1")),
            ["peft 0.21.0, files changed: a.py, b.py, c.py and 2 more"],
        ),
    ],
)
def test_a_package_whose_files_differ_has_changed(
    before: dict[str, Origin] | None, after: dict[str, Origin], told: list[str]
) -> None:
    found = package_changes(changed(origins=before), changed(origins=after))

    assert [str(change) for change in found] == told


def test_builds_for_another_python_are_no_change_of_their_packages() -> None:
    found = package_changes(changed(origins=code("0")), changed(origins=code("1"), python="3.13.0"))

    assert [change.name for change in found] == ["python"]


def test_an_edit_is_a_change_also_beside_another_python() -> None:
    after = changed(origins=code("1", edited={"a.py": "1"}), python="3.13.0")

    assert [change.name for change in package_changes(changed(origins=code("0")), after)] == ["python", "peft"]


@pytest.mark.parametrize(
    ("before", "after", "known"),
    [
        (None, code(), False),
        (code(), None, False),
        (code(), code(), True),
        (code(), {"torch": Origin(digest="t")}, False),
    ],
)
def test_code_is_known_where_the_files_of_every_package_are(before: Any, after: Any, known: bool) -> None:
    assert is_code_known(changed(origins=before), changed(origins=after)) == known


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (Repository("1" * 40), Repository("2" * 40, "main"), "repository 1111111 -> 2222222 (main)"),
        (Repository("1" * 40), Repository("1" * 40, dirty=True), "repository 1111111 -> 1111111, with changes"),
        (Repository("1" * 40), Repository("1" * 40, "main"), None),
        (None, Repository("1" * 40), None),
    ],
)
def test_another_commit_under_test_is_told(before: Any, after: Any, told: str | None) -> None:
    change = repository_change(changed(repository=before), changed(repository=after))

    assert (None if change is None else str(change)) == told


def test_what_an_older_file_lacks_is_unknown_and_leaves_the_environment_as_it_was_written() -> None:
    written = msgspec.json.encode(ENVIRONMENT)

    assert b"origins" not in written
    assert msgspec.json.decode(written, type=Environment) == ENVIRONMENT
