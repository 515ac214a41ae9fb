"""A library that is older than this package needs is named where an import fails."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import surroundings
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.libraries import outside_bounds
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload

MEASURE = """
def measure(request, report):
    raise ImportError("cannot import name 'NEW' from 'transformers'", name="transformers")
"""
ALONE = Case(model="qwen-7b-chat")


def bound(library: str) -> str:
    """The version that this package's own metadata asks for."""
    needed = map(Requirement, importlib.metadata.requires("pytest-llmbench") or ())
    return next(specifier.version for one in needed if one.name == library for specifier in one.specifier)


def install(folder: Path, library: str, version: str) -> None:
    about = folder / f"{library}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: {version}\n")


def measured(folder: Path, case: Case) -> Measurement:
    (folder / "lacks_a_name.py").write_text(MEASURE)
    environ = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{surroundings.python_path(folder)}"}
    executor = LocalExecutor(
        timeout_seconds=30, announce=print, measure="lacks_a_name:measure", preload=(), environ=environ
    )
    with executor:
        return executor.run(Request(case=case, workload=Workload(device="cpu")), lambda _: None)


def test_an_import_that_fails_names_the_library_that_is_too_old(tmp_path: Path) -> None:
    install(tmp_path, "transformers", "4.0.1")

    found = measured(tmp_path, ALONE)

    assert found.outcome == "crashed"
    assert (
        "cannot import name 'NEW' from 'transformers'; "
        f"pytest-llmbench needs transformers >= {bound('transformers')}, and 4.0.1 is installed (at "
    ) in str(found.reason)


def test_a_step_of_ones_own_needs_no_version_of_ours(tmp_path: Path) -> None:
    install(tmp_path, "transformers", "4.0.1")

    assert "llmbench needs" not in str(measured(tmp_path, Case.custom("m:f", name="n")).reason)


@pytest.mark.parametrize(("version", "told"), [("0.0.1", 1), ("9999", 0)])
def test_a_library_is_outside_below_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, told: int
) -> None:
    install(tmp_path, "xformers", version)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert len(list(outside_bounds({"xformers"}))) == told
