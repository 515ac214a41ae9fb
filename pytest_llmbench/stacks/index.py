"""Which versions of a package there are to install."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from packaging.version import InvalidVersion, Version

from pytest_llmbench.schema.credentials import redacted
from pytest_llmbench.schema.text import printable
from pytest_llmbench.stacks import StackError

__all__ = ["between", "known_versions"]

_TEXT = re.compile(r"^Available versions: (?P<versions>.+)$", re.MULTILINE)
_FOR_INDEX = ("-i", "--index-url", "--extra-index-url", "--no-index", "-f", "--find-links", "--pre", "--trusted-host")


class _Answer(msgspec.Struct):
    versions: tuple[str, ...]


def known_versions(name: str, python: Path, options: Sequence[str]) -> tuple[str, ...]:
    """
    What pip's configuration and *options*, lines of a requirements file, find for an interpreter.

    The command that lists them is one that pip calls experimental; a pip that has none is told so.

    Raises:
        StackError: they cannot be listed.
    """
    command = [sys.executable, "-m", "pip", "--python", str(python), "index", "versions", name]
    for option in options:
        if option.startswith(_FOR_INDEX):
            command += shlex.split(option.replace("=", " ", 1))
    said = "pip said nothing"
    for form in (["--json"], []):  # older releases of pip have text only
        done = subprocess.run([*command, *form], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode == 0 and (found := _versions(done.stdout.decode(errors="replace"))):
            return found
        last = "".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])
        said = printable(redacted(last), lines=False) or said
    raise StackError(f"the versions of {name} cannot be listed ({said}); name them with --among")


def between(versions: Sequence[str], good: str, bad: str) -> tuple[str, ...]:
    """
    Those strictly between two, from *good* to *bad*; pre-releases only where one of the two is one.

    Raises:
        StackError: one of the two is no version.
    """
    try:
        ends = Version(good), Version(bad)
        known = {Version(one): one for one in versions}
    except InvalidVersion as error:
        raise StackError(f"there is nothing between {good} and {bad}: {error}") from None
    low, high = sorted(ends)
    any_kind = low.is_prerelease or high.is_prerelease
    inside = sorted(one for one in known if low < one < high and (any_kind or not one.is_prerelease))
    return tuple(known[one] for one in (inside if ends[0] == low else reversed(inside)))


def _versions(text: str) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(text, type=_Answer).versions
    except msgspec.DecodeError:
        found = _TEXT.search(text)
        return tuple(found["versions"].split(", ")) if found else ()
