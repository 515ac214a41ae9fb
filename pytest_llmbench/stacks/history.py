"""
The git repository of a package: its revisions, and checkouts of them.

Nothing is written into a repository that a user names. A folder is cloned by reference, which copies nothing; a
URL is cloned once into the cache, without the files of its commits, which git fetches as they are checked out.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from pytest_llmbench.schema.credentials import redacted
from pytest_llmbench.schema.text import printable
from pytest_llmbench.stacks import StackError
from pytest_llmbench.stacks.cache import cache_folder, locked, prepared

__all__ = ["Commit", "History", "absolute_repository", "open_history"]

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://.|[\w.-]+@[\w.-]+:.", re.IGNORECASE)
"""A URL, or a host in the way of scp."""
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
"""Variables by which a hook of git, in which this may run, names another repository."""
_TAG_PREFIXES = ("v", "", "release-", "{name}-", "{name}-v", "{name}@", "{name}==")


class Commit(msgspec.Struct, frozen=True):
    """A commit, as it may be printed."""

    hash: str
    author: str
    date: str
    """When its author wrote it, as in ISO 8601."""
    subject: str

    @property
    def short(self) -> str:
        return self.hash[:10]

    def __str__(self) -> str:
        return f"{self.short} {self.subject}"


class History:
    """
    The commits of a repository.

    Args:
        name: of the repository, as it may be printed.
        repository: where revisions mean what the user means by them.
        environ: environment variables of git.
        is_ours: commits may be checked out of it; else only out of a clone of it.
    """

    def __init__(self, name: str, repository: Path, environ: Mapping[str, str], *, is_ours: bool) -> None:
        self.name = name
        self._repository = repository
        self._environ = environ
        self._clone = repository if is_ours else None

    def clone_into(self, folder: Path) -> None:
        """
        Make a clone to check commits out of, where there is none yet: it is of our own, and copies nothing.

        Raises:
            StackError: it cannot be made.
        """
        if self._clone is not None:
            return
        folder = folder.absolute()
        shared = self._git("rev-parse", "--path-format=absolute", "--git-common-dir").strip()
        folder.mkdir(parents=True, exist_ok=True)
        clone = folder / "repository.git"
        self._git("clone", "--quiet", "--bare", "--shared", "--template=", "--", shared, str(clone))
        self._clone = clone

    def commit(self, revision: str) -> Commit:
        """
        Raises:
            StackError: there is no such commit.
        """
        parse = ("rev-parse", "--verify", "--quiet", "--end-of-options")
        try:
            # In two steps: to some kinds of revisions no ^{commit} can be added.
            found = self._git(*parse, f"{self._git(*parse, revision).strip()}^{{commit}}").strip()
        except StackError:
            raise StackError(f"{self.name} has no commit {printable(revision, lines=False)!r}") from None
        told = self._git("rev-list", "--no-walk", "--format=%an%x00%aI%x00%s", found)
        author, date, subject = (printable(part, lines=False) for part in told.split("\n")[1].split("\0"))
        return Commit(found, author, date, subject)

    def tagged(self, package: str, version: str) -> Commit:
        """
        The commit of a version, by its tag; of a requirement that names a commit, that commit.

        Raises:
            StackError: there is none.
        """
        if version.startswith("@"):
            return self.commit(version.removeprefix("@"))
        for prefix in _TAG_PREFIXES:
            try:
                return self.commit(f"refs/tags/{prefix.format(name=package)}{version}")
            except StackError:
                continue
        raise StackError(f"{self.name} has no tag v{version} or {version}")

    def parents(self, commit: Commit) -> tuple[str, ...]:
        """Hashes, the first parent first."""
        return tuple(self._git("rev-list", "--no-walk", "--parents", commit.hash).split()[1:])

    def merge_base(self, one: Commit, other: Commit) -> Commit | None:
        """A best common ancestor, if they have one."""
        try:
            return self.commit(self._git("merge-base", one.hash, other.hash).strip())
        except StackError:
            return None

    def check_out(self, commit: Commit, folder: Path, *, files: bool = True) -> Callable[..., str]:
        """
        Put a commit into *folder*, which is not there yet; whoever removes the folder has removed all of it.

        Args:
            files: its files too, and not only the history that leads to it.

        Returns:
            A function that runs git in it.

        Raises:
            StackError: it cannot be checked out.
        """
        assert self._clone is not None
        how = ("--detach", "--force", *(() if files else ("--no-checkout",)))
        _git(self._clone, self._environ, "worktree", "prune")
        _git(self._clone, self._environ, "worktree", "add", *how, str(folder), commit.hash)
        return lambda *arguments: _git(folder, self._environ, *arguments)

    def _git(self, *arguments: str) -> str:
        return _git(self._repository, self._environ, *arguments)


def open_history(named: str, say: Callable[[str], None]) -> History:
    """
    The history of a repository, by its folder or its URL, of which there is a clone in the cache.

    Args:
        say: called with a line of progress.

    Raises:
        StackError: there is no such repository, or it does not have its whole history, or has uncommitted changes.
    """
    if _is_remote(named):
        return _fetched(named, say)
    environ = _environ(named)
    source = Path(named).absolute()
    _check(named, source, environ)
    return History(named, source, environ, is_ours=False)


def absolute_repository(named: str) -> str:
    """The same repository by a name that means it from every folder, without credentials."""
    return redacted(named) if _is_remote(named) else str(Path(named).absolute())


def _is_remote(named: str) -> bool:
    return not Path(named).exists() and _REMOTE.match(named) is not None


def _check(named: str, source: Path, environ: Mapping[str, str]) -> None:
    """Raise where a folder is no repository whose commits can be gone through."""
    if not source.is_dir():
        raise StackError(f"{named}: no such folder; name the folder or the URL of a git repository")
    within = _git(source, environ, "rev-parse", "--show-prefix").strip()
    if within:
        raise StackError(f"{named} is not a git repository itself, it lies in one; name that, without {within}")
    if _git(source, environ, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise StackError(f"{named} is a shallow clone, without the commits between; run git fetch --unshallow in it")
    if ".promisor=true\n" in _git(source, environ, "config", "--list"):
        raise StackError(f"{named} is a partial clone, without the files of its commits; name its URL instead")
    if _git(source, environ, "rev-parse", "--is-bare-repository").strip() == "true":
        return
    if _git(source, environ, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no").strip():
        raise StackError(f"{named} has changes that are in no commit, and would not be measured; commit or stash them")


def _fetched(url: str, say: Callable[[str], None]) -> History:
    """The history of a URL, as it is now."""
    name = redacted(url)
    environ = _environ(url)
    folder = cache_folder() / "repositories" / hashlib.sha256(name.encode()).hexdigest()[:16]
    clone = folder / "repository.git"

    def build(folder: Path) -> None:
        say(f"cloning {name}")
        folder.mkdir()
        how = ("--quiet", "--bare", "--filter=blob:none", "--template=")
        _git(folder, environ, "clone", *how, "--", name, str(clone))

    prepared(folder, build)
    with locked(folder):
        say(f"fetching {name}")
        refs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        _git(clone, environ, "fetch", "--quiet", "--prune", "--no-write-fetch-head", "origin", *refs)
    return History(name, clone, environ, is_ours=True)


def _environ(url: str) -> dict[str, str]:
    """Environment variables of git, by which it puts *url* with its credentials in place of the one without."""
    kept = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    kept |= {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C"}
    settings = [("core.hooksPath", os.devnull)]
    if redacted(url) != url:
        settings.append((f"url.{url}.insteadOf", redacted(url)))
    first = int(kept.get("GIT_CONFIG_COUNT") or 0)
    for number, (key, value) in enumerate(settings, start=first):
        kept |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return kept | {"GIT_CONFIG_COUNT": str(first + len(settings))}


def _git(folder: Path, environ: Mapping[str, str], *arguments: str) -> str:
    """
    What git prints.

    Raises:
        StackError: it fails, or is not there.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
    except FileNotFoundError:
        raise StackError("git is not on PATH; install it, or bisect packages by lock files") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip() or f"exit status {error.returncode}"
        raise StackError(f"git {arguments[0]} in {folder}: {printable(redacted(said.splitlines()[-1]))}") from None
    return done.stdout.decode(errors="replace")
