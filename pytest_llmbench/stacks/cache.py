"""Where prepared environments are kept between runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_llmbench.stacks import StackError

__all__ = ["cache_folder", "locked", "prepared"]

VARIABLE = "LLMBENCH_CACHE"
COMPLETE = "llmbench.complete"
"""File in a prepared folder; one without it was left unfinished by a run that died."""


def cache_folder() -> Path:
    """`$LLMBENCH_CACHE`, or `pytest-llmbench` in the user's cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named).absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache") / "pytest-llmbench"


def prepared(folder: Path, build: Callable[[Path], None], *, refresh: bool = False) -> Path:
    """
    *folder*, built by *build* if it is not there yet, or was left unfinished, or is to be made anew.

    It is built in its place, since virtual environments cannot be moved; other runs wait for it.

    Args:
        build: called with the folder, which does not exist; what it raises leaves no folder behind.

    Raises:
        StackError: the folder cannot be written.
    """
    with locked(folder):
        if (folder / COMPLETE).is_file() and not refresh:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        try:
            build(folder)
            (folder / COMPLETE).touch()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Keep other runs from building *folder* meanwhile.

    Raises:
        StackError: the folder it is in cannot be written.
    """
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            yield
    except PermissionError as error:
        raise StackError(
            f"{folder.parent} cannot be written ({error.strerror}); set {VARIABLE} to a folder that can"
        ) from None
