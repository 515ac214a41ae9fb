"""One measuring run per GPU: whoever comes second takes another GPU, or waits and is told for whom."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmbench.executors import SetupError

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["GpuHeldError", "LeaseFolderError", "lease", "own_folder", "try_lock"]

POLL_SECONDS = 0.2


class GpuHeldError(TimeoutError):
    """Another run kept a GPU for longer than this one was to wait."""


class LeaseFolderError(SetupError):
    """The folder of the locks is not this user's own, or cannot be written to."""


@contextmanager
def lease(
    uuids: Sequence[str], announce: Callable[[str], None], timeout: float | None = None, *, count: int | None = None
) -> Iterator[tuple[str, ...]]:
    """
    Hold *count* of these GPUs, the first that are free, and say which, in the order in which they are given.

    Also threads of one process exclude each other. A run that dies gives its GPUs back. Of those that
    want several GPUs only one at a time holds some while it waits for others, so that none waits for ever.

    Args:
        uuids: as NVML names them ("GPU-..."), each once.
        announce: called if one has to wait, with who holds what is wanted.
        timeout: seconds to wait in all; None waits for ever.
        count: not more than there are; None for all of them.

    Raises:
        GpuHeldError: too few GPUs were free in time.
        LeaseFolderError: another user made the folder of the locks, or it cannot be written to.
    """
    count = len(uuids) if count is None else count
    collecting = _Collecting(uuids, count, None if timeout is None else time.monotonic() + timeout)
    with ExitStack() as held:
        held.callback(collecting.give_back)
        if not collecting.take():
            announce("waiting for {}, held by {}".format(*collecting.missing()))
            if count == 1:
                collecting.wait()
            else:
                collecting.give_back()
                with _turnstile(collecting):
                    collecting.wait()
        yield tuple(uuid for uuid in uuids if uuid in collecting.held)


class _Collecting:
    """The locks of some GPUs, taken as they get free."""

    def __init__(self, uuids: Sequence[str], count: int, deadline: float | None) -> None:
        self.held: dict[str, FileLock] = {}
        self._uuids = uuids
        self._count = count
        self._deadline = deadline

    def take(self) -> bool:
        """Lock what is free, until there are enough."""
        for uuid in self._uuids:
            if len(self.held) < self._count and uuid not in self.held and (lock := try_lock(_path(uuid))):
                self.held[uuid] = lock
                # Beside the lock and not in it: some releases of filelock empty the file they try to lock.
                # A disk that is full costs those who wait a name, and nobody the lease.
                with suppress(OSError):
                    _holder(uuid).write_text(str(os.getpid()))
        return len(self.held) == self._count

    def wait(self) -> None:
        while not self.take():
            self.pause()

    def pause(self) -> None:
        """
        Raises:
            GpuHeldError: there is no time left.
        """
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise GpuHeldError("{} is still held by {}".format(*self.missing()))
        time.sleep(POLL_SECONDS)

    def give_back(self) -> None:
        while self.held:
            uuid, lock = self.held.popitem()
            with suppress(OSError):
                _holder(uuid).unlink(missing_ok=True)
            lock.release()

    def missing(self) -> tuple[str, str]:
        """Name what is still wanted, as "GPU GPU-a", and by whom it is held, as "pid 7"."""
        others = [uuid for uuid in self._uuids if uuid not in self.held]
        count = self._count - len(self.held)
        several = f"{count} of the GPUs {', '.join(others)}"
        return f"GPU {others[0]}" if len(others) == 1 else several, ", ".join(dict.fromkeys(map(_name, others)))


@contextmanager
def _turnstile(collecting: _Collecting) -> Iterator[None]:
    """Held by the one that collects several GPUs."""
    while (lock := try_lock(own_folder() / "several.lock")) is None:
        collecting.pause()
    try:
        yield
    finally:
        lock.release()


def try_lock(path: Path) -> FileLock | None:
    """
    The lock, held by this process until it is released or dies; None if it is taken.

    Raises:
        LeaseFolderError: it cannot be written there.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:  # an OSError itself, so it comes first
        return None
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    return lock


def own_folder() -> Path:
    """
    Where the locks of this user lie.

    Raises:
        LeaseFolderError: another user made it, or it cannot be made.
    """
    folder = Path(tempfile.gettempdir()) / f"pytest-llmbench-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise LeaseFolderError(f"{folder} belongs to another user; remove it or set TMPDIR to a folder of your own")
    return folder


def _unwritable(folder: Path, error: OSError) -> LeaseFolderError:
    return LeaseFolderError(
        f"{folder}: a GPU cannot be leased there: {error.strerror}; set TMPDIR to a folder that can be written to"
    )


def _path(uuid: str) -> Path:
    name = re.sub(r"[^\w-]", "_", uuid)
    return own_folder() / f"{name}.lock"


def _holder(uuid: str) -> Path:
    return _path(uuid).with_suffix(".pid")


def _name(uuid: str) -> str:
    """Whoever holds a GPU, as far as it has said so."""
    try:
        return f"pid {int(_holder(uuid).read_text())}"
    except (OSError, ValueError):
        return "another run"
