"""
Runs tests over a gate that is broken, each time in a fork of this process, which has imported what takes long.

It reads lines of JSON: what is broken, and which tests to run. It writes the status of each run, whose
output is in the file that its argument names. Nothing of this package is imported before a fork, for
`broken_gate` breaks a thing before a test has imported it.
"""

from __future__ import annotations

import json
import os
import sys

import hypothesis
import pytest
import rich.console
import scipy.special  # noqa: TID253

__all__ = ["run"]

PLUGINS = ("-p", "pytest_llmbench.plugin", "-p", "broken_gate", "-p", "no:cacheprovider")
"""The first of them comes before what breaks it, which imports it; what judges is imported by neither."""

assert hypothesis
assert rich.console
assert scipy.special


def run(said: str, broken: str, *selection: str) -> int:
    """The status of a run in a fork."""
    pid = os.fork()
    if pid == 0:
        written = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1)
        os.dup2(written, 2)
        os.environ["LLMBENCH_TEST_BROKEN"] = broken
        status = pytest.main([*PLUGINS, "-q", "-x", *selection])
        sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        print(run(sys.argv[1], *json.loads(line)), flush=True)  # noqa: T201
