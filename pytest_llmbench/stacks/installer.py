"""The program that installs packages into an environment: uv, or pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from pytest_llmbench.schema.credentials import redacted
from pytest_llmbench.schema.text import printable
from pytest_llmbench.stacks import StackError

__all__ = ["InstallError", "Installer", "InstallerName", "find_installer"]

InstallerName = Literal["auto", "uv", "pip"]

LAST_LINES = 12


class InstallError(StackError):
    """What was asked for could not be installed; the message ends with what the installer said last."""


class Installer(msgspec.Struct, frozen=True):
    """Installs into other environments; index and credentials come from its own usual configuration."""

    name: Literal["uv", "pip"]

    def install(self, python: Path, arguments: Sequence[str], what: str, say: Callable[[str], None]) -> None:
        """
        Install into the environment of *python*.

        Args:
            arguments: of `pip install`, which `uv pip install` understands as well.
            what: what is being installed, for the message of an error.
            say: called with each line that the installer prints.

        Raises:
            InstallError: it failed.
        """
        command = [*self._command(python), *arguments]
        # What this process imports from is no business of another environment's.
        environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        last: deque[str] = deque(maxlen=LAST_LINES)
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        try:
            with process.stdout as lines:
                for line in lines:
                    if text := printable(redacted(line.decode(errors="replace").strip()), lines=False):
                        last.append(text)
                        say(text)
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status:
            said = "\n".join(last) or f"exit status {status}"
            raise InstallError(f"{what} cannot be installed with {self.name}; its last output:\n{said}")

    def _command(self, python: Path) -> list[str]:
        if self.name == "uv":
            return ["uv", "pip", "install", "--python", str(python), "--color", "never"]
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
        return [*pip, "--no-input", "--progress-bar", "off", "--disable-pip-version-check"]


def find_installer(wanted: InstallerName, *, sees_base: bool = False) -> Installer:
    """
    uv if it is on PATH, else this environment's pip, which needs no pip where it installs.

    Args:
        sees_base: what is installed has to build on another environment's packages, which uv takes no notice of.

    Raises:
        StackError: it is not there, or cannot do it.
    """
    if wanted == "uv" and sees_base:
        raise StackError("uv does not see the packages of a base environment; install with pip, or without a base")
    if wanted != "pip" and not sees_base and shutil.which("uv"):
        return Installer("uv")
    if wanted != "uv" and find_spec("pip"):
        return Installer("pip")
    lacking = {"uv": "uv is not on PATH", "pip": f"{sys.executable} has no pip", "auto": "there is neither uv nor pip"}
    raise StackError(f"{lacking[wanted]}: nothing can be installed; install one of them, or name environments instead")
