"""Files of a git repository as they were committed, whatever the working tree has made of them since."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pytest_llmbench.host.repository import run_git
from pytest_llmbench.schema.credentials import redacted
from pytest_llmbench.schema.text import printable
from pytest_llmbench.schema.units import size

__all__ = ["Commit", "CommitError", "CommittedFile", "commit_at"]

_LINK = "120000"
_SHORT = 10
"""Digits of a commit that are shown; git tells that many apart in any repository."""
_MOST_SAID = 300


class CommitError(ValueError):
    """A commit, or a file of it, that cannot be read; the message says what to do."""


class CommittedFile(NamedTuple):
    """One file of a commit."""

    object_id: str
    size: int
    is_link: bool


class Commit(NamedTuple):
    """One commit of a repository."""

    repository: Path
    """Top of the working tree."""
    revision: str
    """The commit as the user named it."""
    id: str

    def __str__(self) -> str:
        return self.short if self.id.startswith(self.revision) else f"{self.revision} ({self.short})"

    @property
    def short(self) -> str:
        """First digits of the commit, which name it in commands too."""
        return self.id[:_SHORT]

    def place_of(self, path: Path) -> PurePosixPath:
        """
        The place of *path* within the repository, as it is written: links of the working tree say nothing of a commit.

        Raises:
            CommitError: it is not in the repository.
        """
        path = Path(os.path.normpath(path.absolute()))
        for top in path.parents if path.is_symlink() else (path, *path.parents):
            if top.exists() and top.samefile(self.repository):
                return PurePosixPath(path.relative_to(top).as_posix())
        raise CommitError(f"{path}: is not in the repository {self.repository}; name a folder that git follows")

    def files(self, *places: PurePosixPath) -> dict[PurePosixPath, CommittedFile]:
        """
        Files at *places* and below them, by their place within the repository.

        Raises:
            CommitError: git does not give them.
        """
        within = () if PurePosixPath() in places else ("--", *map(str, places))
        listed = self._read("ls-tree", "-r", "-z", "--long", "--full-tree", self.id, *within)
        found = {}
        for line in filter(None, listed.split(b"\0")):
            about, _, name = line.partition(b"\t")
            mode, kind, object_id, length = about.decode().split()
            if kind == "blob":
                file = CommittedFile(object_id, int(length), mode == _LINK)
                found[PurePosixPath(os.fsdecode(name))] = file
        return found

    def content(self, place: PurePosixPath, file: CommittedFile, *, most_mib: int) -> bytes:
        """
        Content of a file.

        Args:
            place: where it is, for errors.
            file: what `files` says of it.
            most_mib: a larger file is not read.

        Raises:
            CommitError: it is a link, is too large, or git does not give it.
        """
        if file.is_link:
            raise CommitError(f"{self.short}:{place} is a symbolic link, which is not followed; commit the file itself")
        if file.size > most_mib * 2**20:
            most = f"no such file has more than {size(most_mib * 2**20)}"
            raise CommitError(f"{self.short}:{place} has {size(file.size)}, and {most}; restore an older one")
        return self._read("cat-file", "blob", file.object_id)

    def _read(self, *arguments: str) -> bytes:
        done = run_git(self.repository, *arguments)
        if done is None or done.returncode:
            raise CommitError(f"commit {self} cannot be read: {_said(done)}; fetch it again, as by `git fetch origin`")
        return done.stdout


def commit_at(folder: Path, revision: str) -> Commit:
    """
    The commit that a revision names in the repository that holds *folder*, which need not exist any more.

    Args:
        folder: some folder of the repository.
        revision: as git takes it; `A...B` is the merge base of A and B, and B is HEAD where it is left out.

    Raises:
        CommitError: there is no repository, or no such commit in it.
    """
    folder = folder.absolute()
    around = folder if (folder / ".git").exists() and not folder.is_symlink() else folder.parent
    here = next(one for one in (around, *around.parents) if one.is_dir())
    top = run_git(here, "rev-parse", "--show-toplevel")
    if top is None or top.returncode:
        raise CommitError(f"{folder}: no git repository holds it ({_said(top)}); commit the folder, or leave REV out")
    repository = Path(os.fsdecode(top.stdout.rstrip(b"\n")))
    if not revision.isprintable() or revision.startswith("-") or not revision.strip():
        raise CommitError(
            f"{printable(revision, lines=False)!r} is no revision of git; name a branch, a tag or a commit"
        )
    one, dots, other = revision.partition("...")
    if dots:
        ends = [_resolved(repository, end or "HEAD") for end in (one, other)]
        found = run_git(repository, "merge-base", *ends)
        if found is None or found.returncode:
            raise CommitError(
                f"{revision}: {repository} knows no commit that both come from; {_how_to_fetch(repository, one)}"
            )
        return Commit(repository, revision, found.stdout.decode().strip())
    return Commit(repository, revision, _resolved(repository, revision))


def _resolved(repository: Path, revision: str) -> str:
    found = run_git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found is None or found.returncode:
        raise CommitError(f"{revision}: {repository} has no such commit; {_how_to_fetch(repository, revision)}")
    return found.stdout.decode().strip()


def _how_to_fetch(repository: Path, revision: str) -> str:
    remote, slash, branch = revision.partition("/")
    fetch = f"git fetch {remote} {branch}" if slash and remote == "origin" else "git fetch origin main"
    shallow = run_git(repository, "rev-parse", "--is-shallow-repository")
    if shallow is not None and shallow.stdout.strip() == b"true":
        return f"the clone is shallow: `git fetch --unshallow`, or check out with fetch-depth: 0, then `{fetch}`"
    return f"fetch it, as by `{fetch}`"


def _said(done: subprocess.CompletedProcess[bytes] | None) -> str:
    """What git says of a failure, on one line."""
    if done is None:
        return "git cannot be run, or does not answer"
    said = " ".join(done.stderr.decode(errors="replace").split())
    return printable(redacted(said), lines=False)[:_MOST_SAID] or f"git ended with status {done.returncode}"
