"""Processes that tests start: each carries a mark in its environment, by which it and all below it are found."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MARK", "heed_signals", "running", "servers", "survivors"]

MARK = "LLMBENCH_TEST_MARK"
"""The environment variable."""


def running(mark: str) -> dict[int, int]:
    """Process id to parent's of those with the mark in their environment; zombies have none."""
    return {pid: parent for pid, parent in _parents() if mark.encode() in _read(f"/proc/{pid}/environ")}


def servers(mark: str) -> list[int]:
    """Those below the keepers, which are below this process."""
    found = running(mark)
    return [pid for pid, parent in found.items() if found.get(parent) == os.getpid()]


def survivors(mark: str) -> list[int]:
    """What runs though no case does: everything but servers and their keepers."""
    known = servers(mark)
    return [pid for pid, parent in running(mark).items() if parent != os.getpid() and pid not in known]


def heed_signals() -> None:
    """
    For a new process to begin with.

    A shell that runs these tests in the background lets them, and all below them, ignore Ctrl-C.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (stat := _read(f"{folder}/stat")):
            yield int(folder.name), int(stat.rpartition(b")")[2].split()[1])


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has just ended, or is another user's
        return b""
