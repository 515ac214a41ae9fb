"""
What a measuring environment must be able to import of ours, brought along where it is missing.

That is this very package, so that both sides of a comparison are measured by the same code, msgspec,
and the NVML binding, which is `pynvml`. The first always comes from here; the other two only into an
environment that lacks them, and nothing is written into it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import sysconfig
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import msgspec
from packaging.version import Version

import pytest_llmbench
from pytest_llmbench.stacks.cache import COMPLETE, cache_folder, locked, prepared
from pytest_llmbench.stacks.installer import InstallerName, find_installer
from pytest_llmbench.stacks.interpreter import Interpreter

__all__ = ["MINIMUM_MSGSPEC", "worker_folder"]

MINIMUM_MSGSPEC = "0.19"


def worker_folder(
    python: Path, interpreter: Interpreter, say: Callable[[str], None], installer: InstallerName = "auto"
) -> Path:
    """
    A folder for PYTHONPATH with what *interpreter* lacks, and nothing else.

    Args:
        say: called with a line of progress, if anything has to be installed into the cache.

    Raises:
        StackError: msgspec for this interpreter could not be had.
    """
    parts = {"pytest_llmbench": Path(pytest_llmbench.__file__).parent}
    if not _has_msgspec(interpreter):
        parts["msgspec"] = _msgspec(python, interpreter, say, installer)
    nvml = find_spec("pynvml")
    if "nvidia-ml-py" not in interpreter.packages and nvml is not None and nvml.origin is not None:
        parts["pynvml.py"] = Path(nvml.origin)
    return _linked(parts)


def _has_msgspec(interpreter: Interpreter) -> bool:
    found = interpreter.packages.get("msgspec")
    return found is not None and Version(found) >= Version(MINIMUM_MSGSPEC)


def _msgspec(python: Path, interpreter: Interpreter, say: Callable[[str], None], installer: InstallerName) -> Path:
    """This environment's own where the other can load it, else one installed for it into the cache."""
    if interpreter.soabi == sysconfig.get_config_var("SOABI"):
        return Path(msgspec.__file__).parent
    version = importlib.metadata.version("msgspec")

    def build(folder: Path) -> None:
        arguments = ["--target", str(folder), "--no-deps", "--only-binary", ":all:", f"msgspec=={version}"]
        what = f"msgspec, without which nothing can be measured in {python},"
        find_installer(installer).install(python, arguments, what, say)

    return prepared(cache_folder() / "worker" / f"msgspec-{version}-{interpreter.soabi}", build) / "msgspec"


def _linked(parts: dict[str, Path]) -> Path:
    """A folder of the cache with a link to each part; named by its content, so it never changes."""
    version = pytest_llmbench.__version__
    about = _metadata(version)
    described = msgspec.json.encode([about, {name: str(path) for name, path in parts.items()}])
    folder = cache_folder() / "worker" / hashlib.sha256(described).hexdigest()[:16]
    with locked(folder):
        if not (folder / COMPLETE).exists():
            made = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
            made.mkdir()
            for name, path in parts.items():
                (made / name).symlink_to(path)
            described_in = made / f"pytest_llmbench-{version}.dist-info"
            described_in.mkdir()
            (described_in / "METADATA").write_text(about)
            (made / COMPLETE).touch()
            shutil.rmtree(folder, ignore_errors=True)
            made.replace(folder)
    return folder


def _metadata(version: str) -> str:
    """The version, which the worker tells like that of any other package, and which libraries it needs."""
    lines = ["Metadata-Version: 2.1", "Name: pytest-llmbench", f"Version: {version}"]
    with suppress(importlib.metadata.PackageNotFoundError):
        lines += [f"Requires-Dist: {needed}" for needed in importlib.metadata.requires("pytest-llmbench") or ()]
    return "\n".join([*lines, ""])
