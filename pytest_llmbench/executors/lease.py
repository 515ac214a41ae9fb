"""One measuring run per GPU: whoever comes second waits, and is told for whom."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["GpuHeldError", "LeaseFolderError", "lease"]

POLL_SECONDS = 0.2


class GpuHeldError(TimeoutError):
    """Another run kept a GPU for longer than this one was to wait."""


class LeaseFolderError(ValueError):
    """The folder of the locks is not this user's own."""


@contextmanager
def lease(uuids: Iterable[str], announce: Callable[[str], None], timeout: float | None = None) -> Iterator[None]:
    """
    Hold GPUs for this process; runs of one user on one machine take turns.

    Locks are taken in the order of the UUIDs, so that two runs that want the same two GPUs never wait
    for each other. A run that dies gives its GPUs back.

    Args:
        uuids: as NVML names them ("GPU-..."), in any order.
        announce: called once for each GPU that has to be waited for.
        timeout: seconds to wait in all; None waits for ever.

    Raises:
        GpuHeldError: a GPU was not free in time.
        LeaseFolderError: another user made the folder of the locks.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with ExitStack() as held:
        for uuid in sorted(set(uuids)):
            held.enter_context(_hold(uuid, announce, deadline))
        yield


@contextmanager
def _hold(uuid: str, announce: Callable[[str], None], deadline: float | None) -> Iterator[None]:
    from filelock import FileLock

    path = _folder() / re.sub(r"[^\w-]", "_", uuid)
    holder = path.with_suffix(".pid")
    with _acquired(FileLock(path.with_suffix(".lock")), uuid, holder, announce, deadline):
        # Beside the lock and not in it: some releases of filelock empty the file they try to lock.
        holder.write_text(str(os.getpid()))
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)


@contextmanager
def _acquired(
    lock: FileLock, uuid: str, holder: Path, announce: Callable[[str], None], deadline: float | None
) -> Iterator[None]:
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        announce(f"waiting for GPU {uuid}, held by {_name(holder)}")
        remaining = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            lock.acquire(timeout=remaining, poll_interval=POLL_SECONDS)
        except Timeout:
            raise GpuHeldError(f"GPU {uuid} is still held by {_name(holder)}") from None
    try:
        yield
    finally:
        lock.release()


def _name(holder: Path) -> str:
    """Whoever holds a lock, as far as it has said so."""
    try:
        return f"pid {int(holder.read_text())}"
    except (OSError, ValueError):
        return "another run"


def _folder() -> Path:
    """Where the locks of this user lie."""
    folder = Path(tempfile.gettempdir()) / f"pytest-llmbench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise LeaseFolderError(f"{folder} belongs to another user; remove it or set TMPDIR to a folder of your own")
    return folder
