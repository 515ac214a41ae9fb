"""
A run that is held against a commit: its baselines, and the settings of its configuration file.

A change of the working tree edits neither; what it edits is named.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest
from _pytest.config.findpaths import load_config_dict_from_file

from pytest_llmbench.host.commit import Commit, CommitError, commit_at
from pytest_llmbench.plugin.options import OPTIONS, Option, Settings, ini_value, is_typed, resolve
from pytest_llmbench.schema.text import printable
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.committed import CommittedBaselines

__all__ = ["WORKER_KEY", "Against", "against_commit"]

WORKER_KEY = "llmbench_commit"
"""In what pytest-xdist hands its processes: the commit, should the revision move meanwhile."""

_WITHOUT_SAY = frozenset(
    ("", "baseline-ref", "model", "jobs", "ray", "ray-gpu", "timeout", "reason", "results", "benchmark", "html")
)
"""Options whose ini settings are those of the working tree: no row passes by them."""
_FILES = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
"""Configuration files of pytest, of which the first that has something to say counts."""
_MOST_MIB = 1


class Against(NamedTuple):
    """What a run is held against."""

    baselines: CommittedBaselines
    settings: Settings
    """Flags, and what the commit's configuration file says where there is no flag."""
    ini: Mapping[str, Any]
    """By option name: settings of the commit's configuration file."""
    edited: tuple[str, ...]
    """Sentences on settings that the working tree has otherwise, and that do not count."""
    hiding: tuple[str, ...]
    """Sentences on what the working tree has otherwise, and that counts: it may hide rows."""

    @property
    def commit(self) -> Commit:
        return self.baselines.commit


def against_commit(config: pytest.Config, settings: Settings) -> Against:
    """
    What the option asks for.

    Raises:
        pytest.UsageError: there is no such commit, no baselines in it, or one that cannot be read.
    """
    assert settings.baseline_ref is not None
    worker = getattr(config, "workerinput", None)
    asked = worker[WORKER_KEY] if worker else settings.baseline_ref
    with _blamed():
        commit = commit_at(settings.baselines, asked)._replace(revision=settings.baseline_ref)
        written = _configuration(config, commit)
        ini = {option.name: _value(option, written) for option in OPTIONS if _from_commit(config, option, written)}
        settings = resolve(config, ini)
        baselines = CommittedBaselines(settings.baselines, commit)
        if not worker:  # the first process to find a bad one ends the run
            baselines.check()
    if settings.update:
        raise pytest.UsageError(
            "--llmbench-update: baselines of a commit are not written; record in a run without "
            "--llmbench-baseline-ref (-o llmbench_baseline_ref= takes an ini setting back)"
        )
    edited = tuple(_edits(config, ini, commit))
    if written is None:
        told = f"no setting is read at {commit}: the tests are not in the repository {commit.repository}"
        return Against(baselines, settings, ini, (*edited, told), ())
    now, then = (shlex.join(_words(one)) for one in (config.getini("addopts"), written.get("addopts", "")))
    hiding = (f"addopts are {_quoted(now)} here and {_quoted(then)} at {commit}",) if now != then else ()
    return Against(baselines, settings, ini, edited, hiding)


@contextmanager
def _blamed() -> Iterator[None]:
    """Errors of what is committed become usage errors that name the option."""
    try:
        yield
    except CommitError as error:
        raise pytest.UsageError(f"--llmbench-baseline-ref: {error}") from None
    except BaselineError as error:
        told = "in the commit, so mend it there first, or name an earlier commit"
        raise pytest.UsageError(f"--llmbench-baseline-ref: {error}; {told}") from None


def _from_commit(config: pytest.Config, option: Option, written: Mapping[str, Any] | None) -> bool:
    overridden = {word.partition("=")[0].strip() for word in config.getoption("override_ini", None) or ()}
    return written is not None and option.name not in _WITHOUT_SAY and option.setting not in overridden


def _edits(config: pytest.Config, ini: Mapping[str, Any], commit: Commit) -> Iterator[str]:
    for option in OPTIONS:
        if option.name in ini and (now := ini_value(config, option)) != (then := ini[option.name]):
            counts = f"{option.flag} counts" if is_typed(config, option) else "which counts"
            yield f"{option.setting} is {_quoted(now)} here and {_quoted(then)} at {commit}, {counts}"


def _quoted(value: object) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"'{printable(text, lines=False)}'" if text else "not set"


def _value(option: Option, written: Mapping[str, Any] | None) -> Any:
    """The option's setting as `pytest.Config.getini` gives it."""
    value = (written or {}).get(option.setting, "")
    if option.kind == "lines":
        return value if isinstance(value, list) else [line.strip() for line in value.splitlines() if line.strip()]
    if option.kind == "flag":
        return value if isinstance(value, bool) else str(value).lower() in ("1", "y", "yes", "t", "true", "on")
    return str(value) or option.default


def _words(addopts: str | Sequence[str]) -> list[str]:
    return shlex.split(addopts) if isinstance(addopts, str) else list(addopts)


def _configuration(config: pytest.Config, commit: Commit) -> dict[str, Any] | None:
    """
    What the configuration file that pytest would have found at a commit says; None if the tests are not in its repository.

    Raises:
        CommitError: it cannot be read.
    """
    try:
        candidates = list(_candidates(config, commit))
    except CommitError:
        return None
    found = commit.files(*candidates)
    for place in filter(found.__contains__, candidates):
        content = commit.content(place, found[place], most_mib=_MOST_MIB)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, place.name)
            copy.write_bytes(content)
            try:
                said = load_config_dict_from_file(copy)
            except (pytest.UsageError, pytest.fail.Exception, UnicodeDecodeError) as error:
                told = printable(str(error), lines=False).replace(folder, "")
                raise CommitError(f"{commit.short}:{place}: cannot be read: {told}; mend it there first") from None
        if said is not None:  # values of their own kind since pytest 9
            return {name: getattr(value, "value", value) for name, value in said.items()}
    return {}


def _candidates(config: pytest.Config, commit: Commit) -> Iterator[PurePosixPath]:
    """Files in the order in which pytest looks: the one of `-c`; else from the folder of all tests upwards."""
    typed = config.known_args_namespace
    if typed.inifilename:
        yield commit.place_of(config.invocation_params.dir / typed.inifilename)
        return
    start = config.invocation_params.dir
    paths = [start / str(word).partition("::")[0] for word in typed.file_or_dir]
    if folders := [str(path if path.is_dir() else path.parent) for path in paths if path.exists()]:
        start = Path(os.path.commonpath(folders))
    place = commit.place_of(start)
    for folder in (place, *place.parents):
        yield from (folder / name for name in _FILES)
