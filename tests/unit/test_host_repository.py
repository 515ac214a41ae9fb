"""The repository under test, as git describes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from library import commit, git
from pytest_llmbench.host.repository import repository_of
from pytest_llmbench.schema.environment import Repository


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_rows.py").write_text("x = 1\n")
    commit(tmp_path)
    return tmp_path


def test_a_repository_has_its_commit_and_branch(folder: Path) -> None:
    head = git(folder, "rev-parse", "HEAD")

    assert repository_of(folder, {}) == Repository(head, "main", dirty=False)


def test_an_edit_makes_it_dirty(folder: Path) -> None:
    (folder / "test_rows.py").write_text("x = 2\n")

    found = repository_of(folder, {})

    assert found is not None
    assert found.dirty
    assert str(found) == f"{found.commit[:7]} (main), with changes"


def test_results_that_git_does_not_follow_leave_it_clean(folder: Path) -> None:
    (folder / "results.jsonl").write_text("")

    found = repository_of(folder, {})

    assert found is not None
    assert found.dirty is False


def test_a_commit_that_a_ci_service_checked_out_has_the_branch_that_it_names(folder: Path) -> None:
    git(folder, "checkout", "-q", "--detach")

    found = repository_of(folder, {"GITHUB_HEAD_REF": "", "GITHUB_REF_NAME": "fix\x1b[31m"})

    assert found is not None
    assert found.branch == r"fix\x1b[31m"


def test_a_folder_within_it_is_of_the_repository(folder: Path) -> None:
    (folder / "tests").mkdir()
    (folder / "tests/test_a.py").write_text("")
    head = commit(folder)

    found = repository_of(folder / "tests", {})

    assert found is not None
    assert found.commit == head


def test_without_a_repository_none_is_known(tmp_path: Path) -> None:
    assert repository_of(tmp_path, {}) is None


def test_a_repository_without_a_commit_is_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")

    assert repository_of(tmp_path, {}) is None


def test_without_git_none_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert repository_of(folder, {}) is None
