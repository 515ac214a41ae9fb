"""
Names of places in code: the file within its package, and the function.

A place is the innermost frame outside torch and outside the loop that drives a training here.
"""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path, PurePath
from types import CodeType, FrameType
from typing import Literal, NamedTuple

import torch

__all__ = ["Place", "Places", "function_name"]

_TORCH = str(Path(torch.__file__).parent) + "/"
_PRODUCT = Path(__file__).parents[1]
_LOOP = tuple(
    str(_PRODUCT / part)
    for part in (
        "worker/",
        "probes/",
        "engine/loop.py",
        "engine/parallel.py",
        "engine/recomputation.py",
        "engine/rounds.py",
        "engine/trainer_loop.py",
        "engine/training.py",
    )
)
"""Source files of the product that drive a training; its models are code like anybody's."""
_WRAPPING = ("_ops.py", "_tensor.py", "_jit_internal.py", "utils/_python_dispatch.py", "utils/_contextlib.py")
"""Files of torch through which a call passes on its way to an operator."""
_STANDARD = sysconfig.get_paths()["stdlib"] + "/"
_INSTALLED = ("site-packages", "dist-packages")
_WATCHING = (str(_PRODUCT / "probes/operations.py"), str(_PRODUCT / "engine/fake/"))
_INNER = re.compile(r"(\.<locals>)?\.<(?!locals>)[^.]*>.*$")
_KEPT_FOLDERS = 3

Owner = Literal["library", "torch", "passing", "loop"]


class Place(NamedTuple):
    """One function, and whose it is."""

    name: str
    owner: Owner


class Places:
    """Finds places, and remembers each code object that it has seen."""

    def __init__(self) -> None:
        self._known: dict[int, Place] = {}  # by identity, since a code object's own hash takes longer than all else
        self._kept: list[CodeType] = []

    def at(self, frame: FrameType) -> Place:
        """The place of one frame."""
        code = frame.f_code
        place = self._known.get(id(code))
        if place is None:
            self._kept.append(code)
            place = self._known[id(code)] = Place(function_name(frame), _owner(code.co_filename))
        return place

    def innermost(self, frame: FrameType | None, until: CodeType | None = None) -> Place | None:
        """
        The innermost place of a library from *frame* outwards; in torch's own code, where there is none.

        The way outwards ends at the loop that drives the training. None where it meets nothing but the loop.

        Args:
            until: code at which the way ends, too.
        """
        inside = None
        while frame is not None and (code := frame.f_code) is not until:
            place = self._known.get(id(code)) or self.at(frame)
            if place.owner == "library":
                return place
            if place.owner == "loop":
                return inside
            if inside is None and place.owner == "torch":
                inside = place
            frame = frame.f_back
        return inside


def function_name(frame: FrameType) -> str:
    """
    File and function, as `peft/tuners/lora/layer.py:Linear.forward`.

    A comprehension, a generator expression and a lambda carry the name of the function around them.
    """
    code = frame.f_code
    return f"{_file(frame)}:{_INNER.sub('', code.co_qualname) or code.co_qualname}"


def _file(frame: FrameType) -> str:
    """Within its package, as the module's name says; no folder of the machine is in it."""
    module, file = frame.f_globals.get("__name__"), PurePath(frame.f_code.co_filename)
    if isinstance(module, str) and module not in ("__main__", "__mp_main__"):
        path = PurePath(*module.split("."))
        if file.stem == path.name:
            return f"{path}{file.suffix}"
        if file.stem == "__init__":
            return f"{path / file.name}"
    if not file.is_absolute():
        return str(file)
    return "/".join(file.parts[-_KEPT_FOLDERS:])


def _owner(file: str) -> Owner:
    if file.startswith(_TORCH):
        return "passing" if file.removeprefix(_TORCH) in _WRAPPING else "torch"
    if file.startswith(_WATCHING):
        return "passing"
    if file.startswith(_STANDARD) and not any(folder in file for folder in _INSTALLED):
        return "passing"
    return "loop" if file.startswith(_LOOP) else "passing" if file.startswith("<") else "library"
