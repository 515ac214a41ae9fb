"""Environments with a package as it was at a commit, with pip."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

import project
from library import git
from pytest_llmbench.stacks.history import History, open_history
from pytest_llmbench.stacks.installer import InstallError
from pytest_llmbench.stacks.recipe import AtCommit
from pytest_llmbench.stacks.requirements import Requirements
from pytest_llmbench.stacks.stack import Source, open_environment
from wheels import write_wheel

pytestmark = pytest.mark.skipif(find_spec("pip") is None, reason="installs")

OVER_THIS = Source(base="current", installer="pip")


def quiet(_: str) -> None:
    pass


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """A library of three commits, the last of which builds no wheel."""
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    repository = tmp_path / "repository"
    project.begin(repository, "rank = 8\n")
    project.change(repository, "Raise", "rank = 16\n", version="2.0")
    (repository / "backend.py").write_text("raise RuntimeError('unfinished')\n")
    project.change(repository, "Break", "rank = 32\n")
    found = open_history(str(repository), quiet)
    found.clone_into(tmp_path / "scratch")
    return found


def rank(python: Path) -> str:
    statement = "import importlib.metadata as m, part_a; print(part_a.rank, m.version('part-a'), part_a.__file__)"
    done = subprocess.run([python, "-c", statement], capture_output=True, check=True, text=True)
    return done.stdout.strip()


def recipe(history: History, revision: str, beside: Requirements | None = None) -> AtCommit:
    return AtCommit(history=history, package="part-a", commit=history.commit(revision), beside=beside)


def test_a_commit_is_installed_with_its_code_and_its_version(history: History, tmp_path: Path) -> None:
    for revision, expected in (("main~1", "16 2.0"), ("main~2", "8 1.0")):
        python = recipe(history, revision).build(tmp_path / revision, OVER_THIS, quiet)
        site = open_environment("x", python, quiet).interpreter.site_folders[0]
        assert rank(python) == f"{expected} {site}/part_a.py"


def test_what_a_commit_needs_is_what_the_base_has(history: History, tmp_path: Path) -> None:
    python = recipe(history, "main~1").build(tmp_path / "made", OVER_THIS, quiet)
    packages = open_environment("x", python, quiet).packages

    assert packages["pytest"] == pytest.__version__


def test_nothing_that_a_commit_asks_for_is_installed(history: History, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    backend = git(repository, "show", "main~1:backend.py")
    (repository / "backend.py").write_text(backend.replace(", code)", ', code, "missing-package>=7")'))
    project.change(repository, "Need", "rank = 64\n")
    python = recipe(history, "main").build(tmp_path / "made", OVER_THIS, quiet)

    assert open_environment("x", python, quiet).interpreter.requires["part-a"] == ("missing-package>=7",)


def test_a_commit_that_does_not_build_is_told_with_the_last_words_of_the_installer(
    history: History, tmp_path: Path
) -> None:
    with pytest.raises(InstallError, match="cannot be installed with pip"):
        recipe(history, "main").build(tmp_path / "made", OVER_THIS, quiet)


def test_a_repository_of_another_package_is_refused(history: History, tmp_path: Path) -> None:
    other = AtCommit(history=history, package="part-b", commit=history.commit("main~1"))

    with pytest.raises(InstallError, match="cannot be installed with pip"):
        other.build(tmp_path / "made", OVER_THIS, quiet)


def test_beside_a_commit_the_rest_of_a_lock_file_is_installed(history: History, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    write_wheel(tmp_path / "wheels", "part-b", "3.0", "")
    rest = Requirements((f"--find-links {tmp_path / 'wheels'}",), {"part-a": "part-a==9.9", "part-b": "part-b"})
    python = recipe(history, "main~1", rest).build(tmp_path / "made", OVER_THIS, quiet)
    packages = open_environment("x", python, quiet).packages

    assert (packages["part-a"], packages["part-b"]) == ("2.0", "3.0")


def test_whoever_removes_an_environment_has_removed_its_checkout(history: History, tmp_path: Path) -> None:
    commit = recipe(history, "main~1")
    for _ in range(2):
        commit.build(tmp_path / "made", OVER_THIS, quiet)
        subprocess.run(["rm", "-r", str(tmp_path / "made")], check=True)

    history.check_out(commit.commit, tmp_path / "other", files=False)
    clone = tmp_path / "scratch" / "repository.git"
    assert len(git(clone, "worktree", "list").splitlines()) == 2  # the clone itself, and the other one
