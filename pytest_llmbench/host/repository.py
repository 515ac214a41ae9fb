"""What git says of a folder: commit, branch, and which files are not as they were committed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pytest_llmbench.schema.environment import Repository
from pytest_llmbench.schema.text import printable

__all__ = ["commit_of", "edited_files", "repository_of", "run_git"]

GIT_SECONDS = 20.0
"""For a repository on a slow network file system; what takes longer is not known."""

_BRANCHES = (
    "GITHUB_HEAD_REF",
    "GITHUB_REF_NAME",
    "CI_COMMIT_REF_NAME",
    "BUILDKITE_BRANCH",
    "BRANCH_NAME",
    "GIT_BRANCH",
)
"""Variables of CI services, which check out a commit and no branch."""


def repository_of(folder: Path, environ: Mapping[str, str]) -> Repository | None:
    """
    The repository in which *folder* lies; None without one, or without git.

    Files that git does not follow, as those of results, leave it clean.
    """
    commit = commit_of(folder)
    if commit is None:
        return None
    branch = _git(folder, "symbolic-ref", "--quiet", "--short", "HEAD")
    named = branch or next((environ[name] for name in _BRANCHES if environ.get(name)), "")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Repository(
        commit=commit, branch=printable(named, lines=False) or None, dirty=None if changed is None else bool(changed)
    )


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out around *folder*, if git follows what is in it."""
    if not _git(folder, "ls-files", "--", "."):
        return None
    return _git(folder, "rev-parse", "--verify", "HEAD") or None


def edited_files(folder: Path) -> list[str]:
    """Files below *folder*, by names relative to it, that are not as in the commit; those that git ignores left out."""
    listed = _git(folder, "diff", "--name-only", "--no-renames", "--relative", "-z", "HEAD", "--", ".") or ""
    new = _git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", ".") or ""
    return sorted(filter(None, [*listed.split("\0"), *new.split("\0")]))


def run_git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    """Run git in a folder, which asks nobody for a password and changes nothing; None if it cannot be run."""
    # A hook of git, in which tests may run, names another repository in the environment.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "--no-optional-locks", "--literal-pathspecs", "-C", str(folder), *arguments],
            env={**environ, "GIT_TERMINAL_PROMPT": "0", "GIT_NO_REPLACE_OBJECTS": "1", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, ValueError):  # among them a name with a zero byte
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, without the last newline; None if it fails."""
    done = run_git(folder, *arguments)
    return None if done is None or done.returncode else done.stdout.decode(errors="replace").rstrip("\n")
