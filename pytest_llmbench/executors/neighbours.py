"""How many other cases run on this machine while one is measured: they share its CPUs, and wall time shows it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pytest_llmbench.executors.lease import LeaseFolderError, own_folder, try_lock
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Phase, Request

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["Neighbours", "among_others", "marked", "present"]

OnPhase = Callable[[Phase], None]
Run = Callable[[Request, OnPhase], Measurement]


class Neighbours:
    """
    The other cases that are measured at the same time, by this run or others of the same user.

    Attributes:
        most: the most that were seen at once; None if that cannot be known.
    """

    def __init__(self, own: Path | None) -> None:
        self.most = None if own is None else 0
        self._own = own

    def look(self) -> None:
        if self._own is None or self.most is None:
            return
        try:
            others = sum(_is_held(path) for path in self._own.parent.glob("*.case") if path != self._own)
        except (OSError, LeaseFolderError):
            self.most = None
        else:
            self.most = max(self.most, others)


@contextmanager
def present() -> Iterator[Neighbours]:
    """
    Be a case that is measured, to be seen by others, and see them.

    A file stands for the case. It is locked while the case runs, so that one that a killed run left
    behind counts for nothing, and is removed.
    """
    try:
        path, lock = _appear()
    except (OSError, LeaseFolderError):
        yield Neighbours(None)
        return
    neighbours = Neighbours(path)
    neighbours.look()
    try:
        yield neighbours
        neighbours.look()
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()


def among_others(run: Run, request: Request, on_phase: OnPhase) -> Measurement:
    """What *run* measures while it is `present`, `marked` with the others that it has seen."""
    with present() as neighbours:

        def tell(phase: Phase) -> None:
            neighbours.look()
            on_phase(phase)

        measurement = run(request, tell)
    return marked(measurement, neighbours.most)


def marked(measurement: Measurement, neighbours: int | None) -> Measurement:
    """*measurement* with what was seen written into its processes."""
    processes = tuple(msgspec.structs.replace(one, neighbours=neighbours) for one in measurement.processes)
    return msgspec.structs.replace(measurement, processes=processes)


def _appear() -> tuple[Path, FileLock]:
    folder = own_folder() / "cases"
    folder.mkdir(exist_ok=True)
    path = folder / f"{os.getpid()}-{uuid.uuid4().hex}.case"
    hidden = path.with_suffix(".new")
    lock = try_lock(hidden)
    assert lock is not None, "nobody else knows its name"
    try:
        hidden.rename(path)  # nobody sees it before it is locked
    except BaseException:
        lock.release()
        raise
    return path, lock


def _is_held(path: Path) -> bool:
    lock = try_lock(path)
    if lock is None:
        return True
    path.unlink(missing_ok=True)
    lock.release()
    return False
