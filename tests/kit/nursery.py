"""Runs of pytest in forks of a process that has imported what takes long: as good as a new process, and sooner there."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import marked

__all__ = ["Ended", "Nursery"]

THIRD_PARTY = ("pytest", "hypothesis", "msgspec", "psutil", "rich.console", "scipy.special")


class Ended(NamedTuple):
    """What a run of pytest came to."""

    status: int
    text: str


class Nursery:
    """
    A process that forks one for each run.

    Args:
        environ: that it starts in; each run has one of its own, which only the dynamic loader does not see.
        said: the file that what is printed goes through.
        imports: modules beside those of third parties.
    """

    def __init__(self, environ: Mapping[str, str], said: Path, imports: Sequence[str] = ()) -> None:
        self._said = said
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nursery", *THIRD_PARTY, *imports],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, folder: Path, environ: Mapping[str, str], *arguments: str) -> Ended:
        """Run `pytest` with *arguments* in *folder*, to the end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), dict(environ), str(self._said), arguments]) + "\n")
        self._process.stdin.flush()
        return Ended(int(self._process.stdout.readline()), self._said.read_text(errors="replace"))


def _run(folder: str, environ: dict[str, str], said: str, arguments: list[str]) -> int:
    """The status of a run in a fork, which ends as any process does."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.setsid()
    marked.heed_signals()
    written = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.path.insert(0, folder)
    raise SystemExit(importlib.import_module("pytest").main(arguments))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        print(_run(*json.loads(line)), flush=True)  # noqa: T201
