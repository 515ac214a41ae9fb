"""One environment to measure in, ready to be started, and how it is got from what a user names."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

import pytest_llmbench
from pytest_llmbench.host.distribution import origins
from pytest_llmbench.schema.environment import Origin
from pytest_llmbench.schema.text import printable
from pytest_llmbench.stacks import StackError
from pytest_llmbench.stacks.bundle import worker_folder
from pytest_llmbench.stacks.cache import cache_folder, prepared
from pytest_llmbench.stacks.dependencies import can_build
from pytest_llmbench.stacks.installer import InstallerName, find_installer
from pytest_llmbench.stacks.interpreter import Interpreter, probe
from pytest_llmbench.stacks.requirements import read_requirements

__all__ = ["CURRENT", "Source", "Stack", "absolute", "build_environment", "open_environment", "open_stack"]

CURRENT = "current"
_BASE_FILE = "llmbench-base.pth"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """How environments are made from requirements files."""

    python: str | None = None
    """Path of the interpreter to make them with; None for this one, or that of the base."""
    base: str | None = None
    """An environment whose packages they see below their own: what a file does not ask for comes from there."""
    constraints: tuple[str, ...] = ()
    """Paths of constraints files."""
    installer: InstallerName = "auto"
    refresh: bool = False
    """Make them anew, also where the cache has them."""


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that can measure."""

    name: str
    """As the user named it."""
    python: Path
    interpreter: Interpreter
    worker: Path
    """Folder of what has to be added to its path."""

    @property
    def packages(self) -> dict[str, str]:
        """Normalised distribution name to version, Python included, without what is ours."""
        found = {name: version for name, version in self.interpreter.packages.items() if name != "pytest-llmbench"}
        return {"python": ".".join(map(str, self.interpreter.version)), **found}

    @property
    def origins(self) -> dict[str, Origin]:
        """Which code the packages are, as their files are now."""
        return origins(self.packages, self.interpreter.path)

    def environ(self, path: Iterable[Path] = ()) -> dict[str, str]:
        """
        Environment variables of its processes.

        Args:
            path: folders with the user's own modules, which win over installed ones.
        """
        return _environ(self.python, self.interpreter.prefix, [self.worker, *path])


def open_stack(named: str, source: Source, say: Callable[[str], None]) -> Stack:
    """
    The environment that *named* means: `current`, a virtual environment's folder, an interpreter, or a
    requirements file, which is installed unless the cache has it.

    Args:
        say: called with a line of progress while something is installed.

    Raises:
        StackError: there is no such environment, or it cannot be made or measured in.
    """
    python = _interpreter_of(named)
    if python is None:
        python = _from_file(Path(named), source, say)
    return open_environment(named, python, say, source.installer)


def absolute(named: str) -> str:
    """The same environment, by a name that means it from every folder."""
    return named if named == CURRENT else str(Path(named).absolute())


def open_environment(name: str, python: Path, say: Callable[[str], None], installer: InstallerName = "auto") -> Stack:
    """
    Raises:
        StackError: nothing can be measured with this interpreter.
    """
    interpreter = probe(python, _environ(python, None, ()))
    worker = worker_folder(python, interpreter, say, installer)
    return Stack(name=name, python=python, interpreter=interpreter, worker=worker)


def build_environment(
    folder: Path, requirements: Path, source: Source, say: Callable[[str], None], *, project: Path | None = None
) -> Path:
    """
    Make a virtual environment in *folder* and install *requirements* into it.

    Args:
        project: sources of the one package that they ask for. What it needs, the base has: nothing else is
            installed, and the base's own tools build it, if they are what it asks for.

    Returns:
        Its interpreter.

    Raises:
        StackError: it cannot be made; an `InstallError` if the requirements are to blame.
    """
    python, base = _foundation(source, say)
    try:
        command = [str(python), "-m", "venv", "--without-pip", str(folder)]
        subprocess.run(
            command, env=_environ(python, None, ()), stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        raise StackError(
            f"{python} cannot make a virtual environment: {printable(said.decode(errors='replace').strip())}"
        ) from None
    made = folder / "bin" / "python"
    if base is not None:
        inside = Path(probe(made, _environ(made, None, ())).site_folders[0])
        lines = [f"import site; site.addsitedir({site!r})\n" for site in base.site_folders]
        (inside / _BASE_FILE).write_text("".join(lines))
    arguments = ["-r", str(requirements)]
    for constraint in source.constraints:
        arguments += ["-c", constraint]
    if project is not None:
        arguments += ["--no-deps", "--no-compile"]
        if base is not None and can_build(project, base):
            arguments.append("--no-build-isolation")
    find_installer(source.installer, sees_base=base is not None).install(made, arguments, str(requirements), say)
    return made


def _interpreter_of(named: str) -> Path | None:
    """None for what has to be installed first."""
    if named == CURRENT:
        return Path(sys.executable)
    path = Path(named).absolute()
    if path.is_dir():
        if not (path / "bin" / "python").exists():
            raise StackError(f"{named} is not a virtual environment: it has no bin/python")
        return path / "bin" / "python"
    if not path.exists():
        raise StackError(
            f"{named}: no such file or folder; name a virtual environment, a requirements file, or 'current'"
        )
    return path if path.name.startswith("python") and os.access(path, os.X_OK) else None


def _foundation(source: Source, say: Callable[[str], None]) -> tuple[Path, Interpreter | None]:
    """The interpreter to make environments with, and what they are made on top of."""
    if source.base is None:
        return Path(source.python or sys.executable), None
    if source.python is not None:
        raise StackError("a base environment brings its own Python; leave out one of the two")
    python = _interpreter_of(source.base)
    if python is None:
        python = _from_file(Path(source.base), msgspec.structs.replace(source, base=None), say)
    return python, probe(python, _environ(python, None, ()))


def _from_file(path: Path, source: Source, say: Callable[[str], None]) -> Path:
    """The interpreter of the cached environment for a requirements file."""
    python, base = _foundation(source, say)
    interpreter = base or probe(python, _environ(python, None, ()))
    described = (
        pytest_llmbench.__version__,
        (interpreter.version, interpreter.soabi),
        (base.prefix, base.packages) if base else None,
        [_content(file) for file in (path, *map(Path, source.constraints))],
    )
    key = hashlib.sha256(msgspec.json.encode(described, order="deterministic")).hexdigest()[:12]

    def build(folder: Path) -> None:
        say(f"installing {path} into {folder}")
        build_environment(folder, path, source, say)

    folder = cache_folder() / "environments" / f"{path.stem}-{key}"
    return prepared(folder, build, refresh=source.refresh) / "bin" / "python"


def _content(path: Path) -> str:
    """All that a file asks for, also through the files that it includes."""
    if path.suffix == ".toml":  # pylock.toml, which the installer reads and we do not
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StackError(f"{path} cannot be read: {error}") from None
    return read_requirements(path).text


def _environ(python: Path, prefix: str | None, path: Iterable[Path]) -> dict[str, str]:
    environ: Mapping[str, str] = os.environ
    kept = {name: value for name, value in environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    if prefix is not None and Path(prefix, "pyvenv.cfg").exists():
        kept["VIRTUAL_ENV"] = prefix
    return {
        **kept,
        # Compilers and tools that libraries start are those of the environment.
        "PATH": os.pathsep.join(filter(None, [str(python.parent), environ.get("PATH")])),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        # Without this a checkout in the current folder would be measured on both sides.
        "PYTHONSAFEPATH": "1",
    }
