"""Sources of a one-module library in a git repository, which builds itself: no build tool is needed, and no index."""

from __future__ import annotations

from pathlib import Path

import wheels
from library import commit

__all__ = ["begin", "change"]

_ABOUT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
_BACKEND = """

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    code = Path("src/{module}.py").read_text()
    write_wheel(Path(wheel_directory), "{name}", Path("version.txt").read_text(), code)
    return "{module}-" + Path("version.txt").read_text() + "-py3-none-any.whl"
"""


def begin(folder: Path, code: str, name: str = "part-a") -> str:
    """The first commit of a library, whose version is 1.0."""
    module = name.replace("-", "_")
    (folder / "src").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(_ABOUT)
    (folder / "backend.py").write_text(Path(wheels.__file__).read_text() + _BACKEND.format(name=name, module=module))
    return change(folder, "Begin", code, version="1.0", name=name)


def change(folder: Path, subject: str, code: str, *, version: str | None = None, name: str = "part-a") -> str:
    """A commit of the library with other code, or another version too."""
    (folder / "src" / f"{name.replace('-', '_')}.py").write_text(code)
    if version is not None:
        (folder / "version.txt").write_text(version)
    return commit(folder, subject)
