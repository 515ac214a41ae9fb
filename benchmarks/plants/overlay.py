"""
A folder that, first on the path, shows an installed library with one file edited and its version raised.

Everything but that file, and the folders on the way to it, is a link to the installed library.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from benchmarks.plants.catalogue import Plant

__all__ = ["RAISED", "PlantError", "edited", "make_overlay"]

RAISED = ".post1"
"""A planted library has the version of the installed one with this behind it, as an upgrade would."""


_COMPILED = "__pycache__"


class PlantError(Exception):
    """A plant does not fit the installed libraries; the message names the plant and the file."""


def make_overlay(plant: Plant, folder: Path) -> Path:
    """
    The overlay of a plant, made in *folder*.

    Raises:
        PlantError: the library is not installed, or its file is another one.
    """
    site = _site_of(plant)
    text = edited(plant)
    source, made = site, folder
    made.mkdir(parents=True, exist_ok=True)
    *folders, name = Path(plant.file).parts
    for part, following in pairwise((*folders, name)):
        source, made = source / part, made / part
        _link(source, made, without=following)
    (made / name).write_text(text)
    _raise_version(plant, site, folder)
    return folder


def edited(plant: Plant) -> str:
    """
    The text of the file with the regression in it.

    Raises:
        PlantError: the library or what is to be edited is not there.
    """
    try:
        text = (_site_of(plant) / plant.file).read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    if plant.old not in text:
        raise PlantError(
            f"plant {plant.name}: {plant.file} does not have the text to edit; "
            f"write the plant anew for the installed {plant.library}"
        )
    return text.replace(plant.old, plant.new)


def _link(source: Path, made: Path, without: str) -> None:
    """Links to all of a folder, but for one entry; those to compiled files spare each process the compiling."""
    made.mkdir()
    (made / _COMPILED).mkdir()
    for one in source.iterdir():
        if one.name not in (without, _COMPILED):
            (made / one.name).symlink_to(one)
    for one in (source / _COMPILED).glob("*.pyc"):
        if one.name.partition(".")[0] != without.removesuffix(".py"):
            (made / _COMPILED / one.name).symlink_to(one)


def _site_of(plant: Plant) -> Path:
    """The folder that the library is installed in."""
    spec = find_spec(plant.library)
    if spec is None or spec.origin is None:
        raise PlantError(f"plant {plant.name}: {plant.file} is not there; install {plant.library}")
    return Path(spec.origin).parents[1]


def _raise_version(plant: Plant, site: Path, folder: Path) -> None:
    installed = next(site.glob(f"{plant.library}-*.dist-info"))
    version = installed.name.removeprefix(f"{plant.library}-").removesuffix(".dist-info")
    public, plus, local = version.partition("+")
    made = folder / f"{plant.library}-{public}{RAISED}{plus}{local}.dist-info"
    made.mkdir()
    metadata = (installed / "METADATA").read_text(encoding="utf-8")
    raised = metadata.replace(f"\nVersion: {version}\n", f"\nVersion: {public}{RAISED}{plus}{local}\n", 1)
    (made / "METADATA").write_text(raised, encoding="utf-8")
