"""
Whether pytest has lost its root directory to the value of an option.

It looks for that, and for its ini file, before a plugin can declare an option: of `--llmbench-model DIR` it knows
neither that the option takes a value nor that DIR is no path to tests.
"""

from __future__ import annotations

import inspect
import itertools
import os
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.config import findpaths

__all__ = ["why_lost"]


def why_lost(config: pytest.Config, flags: Collection[str]) -> str | None:
    """
    A sentence that says what to write instead; None where root directory and ini file are those of the tests.

    Args:
        flags: options that take a value.
    """
    typed = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *map(str, config.invocation_params.args)]
    given = [(flag, value) for flag, value in itertools.pairwise(typed) if flag in flags]
    if not given or hasattr(config, "workerinput"):  # a process of pytest-xdist is told the root directory
        return None
    tests = config.known_args_namespace.file_or_dir
    meant = _setup(config, tests)
    if meant == (config.rootpath, config.inipath):
        return None
    for flag, value in given:
        if _setup(config, [*tests, value]) != meant:
            return (
                f"{flag} {value}: pytest takes a path after a space for a path to tests, so its root directory became "
                f"{config.rootpath}, where it should be {meant[0]}; write {flag}={value}"
            )
    return None


def _setup(config: pytest.Config, tests: Sequence[str]) -> tuple[Path, Path | None]:
    """Root directory and ini file, as pytest chooses them for these paths; what it asks for differs by release."""
    options = config.known_args_namespace
    known: dict[str, Any] = {
        "inifile": options.inifilename,
        "override_ini": options.override_ini,
        "args": tests,
        "rootdir_cmd_arg": options.rootdir or None,
        "invocation_dir": config.invocation_params.dir,
    }
    asked = inspect.signature(findpaths.determine_setup).parameters
    rootdir, inifile, *_ = findpaths.determine_setup(**{name: known[name] for name in asked if name in known})
    return rootdir, inifile
