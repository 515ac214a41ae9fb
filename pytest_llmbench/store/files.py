"""
Files that others may have made: the one way in which they are read, and where the links among them lead.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from pytest_llmbench.schema.units import size

__all__ = ["from_here", "leads_out", "read_file"]

_OF_THE_KERNEL = ("/proc/", "/sys/")
"""Files there look like any other, but say nothing of their size, and some never end."""


def read_file(path: Path, *, most_mib: int) -> bytes:
    """
    The content of a file of a disk, as long as the file was when it was opened.

    Args:
        path: links are followed.
        most_mib: a larger file is not read.

    Raises:
        OSError: it cannot be read, is none, or is too large; `strerror` says so in words.
    """
    real = os.path.realpath(path)
    if real.startswith(_OF_THE_KERNEL):
        raise OSError(errno.EINVAL, f"it is not a file of a disk but {real}", str(path))
    _size(path, path.stat(), most_mib)  # before it is opened, which some devices take for an order
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(_size(path, os.fstat(descriptor), most_mib))


def _size(path: Path, found: os.stat_result, most_mib: int) -> int:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):  # /dev/zero never ends, and a pipe may never begin
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    if found.st_size > most_mib * 2**20:
        most = f"no such file has more than {size(most_mib * 2**20)}"
        raise OSError(errno.EFBIG, f"it has {size(found.st_size)}, and {most}", str(path))
    return found.st_size


def from_here(path: Path | str) -> str:
    """Path as a user in the current folder names it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else str(path)


def leads_out(path: Path, folder: Path) -> str | None:
    """Find where *path*, which is written as one below *folder*, leads by links if that is not below *folder*; else None."""
    real = os.path.realpath(path)
    return None if Path(real).is_relative_to(os.path.realpath(folder)) else real
