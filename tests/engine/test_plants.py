"""Planted regressions: each can be planted into the installed libraries, and what was planted is what runs."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from packaging.version import Version

import forked

ROOT = Path(__file__).parents[2]

pytest.importorskip("transformers")
if Version(version("transformers")) < Version("5.24"):
    pytest.skip("the plants are written for transformers 5.24", allow_module_level=True)


@pytest.fixture(autouse=True)
def _checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are not installed; they come behind everything that is."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


def test_every_plant_applies_to_the_installed_libraries() -> None:
    from benchmarks.plants.catalogue import PLANTS
    from benchmarks.plants.overlay import edited

    for plant in PLANTS:
        ast.parse(edited(plant))


def test_a_plant_whose_text_is_not_there_is_refused_by_its_name_and_its_file() -> None:
    from benchmarks.plants.catalogue import PLANTS
    from benchmarks.plants.overlay import PlantError, edited

    strange = msgspec.structs.replace(PLANTS[0], old="in no file of any library")
    with pytest.raises(PlantError, match=rf"plant {strange.name}: {strange.file} does not have"):
        edited(strange)


def test_an_overlay_has_the_edit_the_other_files_and_a_raised_version(tmp_path: Path) -> None:
    from benchmarks.plants.catalogue import PLANTS
    from benchmarks.plants.overlay import edited, make_overlay

    plant = next(one for one in PLANTS if one.library == "peft")
    folder = make_overlay(plant, tmp_path / "overlay")
    assert (folder / plant.file).read_text() == edited(plant)
    assert (folder / "peft/__init__.py").is_symlink()
    [metadata] = folder.glob("peft-*.dist-info/METADATA")
    assert f"\nVersion: {version('peft')}.post1\n" in metadata.read_text()


@pytest.mark.slow
def test_a_plant_is_caught_and_its_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.plants.catalogue import PLANTS
    from benchmarks.plants.trial import Meter, found
    from pytest_llmbench.stacks.stack import CURRENT, Source, open_stack

    plant = next(one for one in PLANTS if one.name == "dropout_twice")
    stack = open_stack(CURRENT, Source(), lambda _: None)
    with Meter.of(plant, stack, tmp_path / "overlay") as planted:
        after = planted.measure(plant.row)
    forked.fork_servers(monkeypatch)
    with Meter(stack) as without:
        finding = found(plant, without.measure(plant.row), after)
    assert finding.caught
    assert finding.placed, finding.first_line
