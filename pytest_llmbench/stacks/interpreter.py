"""What another Python is and has, asked of the interpreter itself."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pytest_llmbench.schema.text import printable, printable_json
from pytest_llmbench.stacks import StackError

__all__ = ["MINIMUM_PYTHON", "Interpreter", "probe"]

MINIMUM_PYTHON = (3, 11)
"""What the worker needs."""

PROBE_SECONDS = 60.0
"""For a first start from a cold network file system."""

# Runs in any Python 3, so that one that is too old can be told so. The first of two distributions
# with one name is the one that is imported.
_PROBE = """
import json, os, re, site, sys, sysconfig
found, requires = {}, {}
try:
    from importlib.metadata import distributions
    for one in distributions():
        name = one.metadata["Name"]
        if name:
            name = re.sub(r"[-_.]+", "-", name).lower()
            if name not in found:
                found[name], requires[name] = one.version or "unknown", one.requires or []
except ImportError:
    pass
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "soabi": sysconfig.get_config_var("SOABI") or "",
    "prefix": sys.prefix,
    "site_folders": [folder for folder in site.getsitepackages() if os.path.isdir(folder)],
    "path": [folder for folder in sys.path if folder],
    "packages": found,
    "requires": requires,
}))
"""


class Interpreter(msgspec.Struct, frozen=True):
    """A Python and the distributions that it finds."""

    version: tuple[int, int, int]
    soabi: str
    """Names the interpreters that can load one and the same extension module."""
    prefix: str
    """Root folder of the environment."""
    site_folders: tuple[str, ...]
    """Where its packages lie."""
    packages: dict[str, str]
    """Normalised distribution name to version."""
    requires: dict[str, tuple[str, ...]] = {}
    """Normalised distribution name to what it declares to need, as in its metadata."""
    path: tuple[str, ...] = ()
    """Where it looks for modules."""


def probe(python: Path, environ: Mapping[str, str]) -> Interpreter:
    """
    Start *python* and ask it, with the environment variables that it will measure with.

    Raises:
        StackError: it does not run, or it is older than `MINIMUM_PYTHON`.
    """
    try:
        done = subprocess.run(
            [str(python), "-c", _PROBE],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=True,
        )
        found = msgspec.json.decode(printable_json(done.stdout), type=Interpreter)
    except OSError as error:
        raise StackError(f"{python} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise StackError(f"{python} did not start within {PROBE_SECONDS:.0f} s") from None
    except subprocess.CalledProcessError as error:
        last = printable("".join(error.stderr.decode(errors="replace").strip().splitlines()[-1:]), lines=False)
        raise StackError(f"{python} does not run: {last or f'exit status {error.returncode}'}") from None
    except msgspec.DecodeError:
        raise StackError(f"{python} is not a Python: it does not answer as one") from None
    if found.version[:2] < MINIMUM_PYTHON:
        raise StackError(
            f"{python} is Python {'.'.join(map(str, found.version))}; measuring needs "
            f"{'.'.join(map(str, MINIMUM_PYTHON))} or newer there"
        )
    return found
