"""The repository of a package: its revisions, checkouts of them, and what is refused."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from library import commit, git
from pytest_llmbench.stacks import StackError
from pytest_llmbench.stacks.history import absolute_repository, open_history

SECRET = "S3cretT0ken"


def quiet(_: str) -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two commits; the first is tagged as version 1.0."""
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "repository"
    made.mkdir()
    (made / "file").write_text("1")
    commit(made, "First")
    git(made, "tag", "v1.0")
    (made / "file").write_text("2")
    commit(made, "Second")
    return made


def all_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_commit_is_told_with_author_date_and_subject(folder: Path) -> None:
    found = open_history(str(folder), quiet).commit("HEAD")

    assert (found.hash, found.author, found.subject) == (git(folder, "rev-parse", "HEAD"), "a", "Second")
    assert found.date == git(folder, "log", "-1", "--format=%aI")


def test_a_subject_that_is_no_plain_text_is_told_by_escapes(folder: Path) -> None:
    git(folder, "commit", "--allow-empty", "-qm", "::error::\x1b[31m")

    assert open_history(str(folder), quiet).commit("HEAD").subject == "\\x3a:error::\\x1b[31m"


def test_a_revision_that_is_an_option_of_git_is_no_commit(folder: Path) -> None:
    with pytest.raises(StackError, match="has no commit '--all'"):
        open_history(str(folder), quiet).commit("--all")


def test_a_file_is_no_commit(folder: Path) -> None:
    with pytest.raises(StackError, match="has no commit 'HEAD:file'"):
        open_history(str(folder), quiet).commit("HEAD:file")


@pytest.mark.parametrize("tag", ["v1.0", "1.0", "release-1.0", "peft-1.0", "peft-v1.0", "peft==1.0"])
def test_a_version_is_found_by_its_tag(folder: Path, tag: str) -> None:
    git(folder, "tag", "-d", "v1.0")
    git(folder, "tag", "-am", "x", tag, "HEAD~1")

    assert open_history(str(folder), quiet).tagged("peft", "1.0").subject == "First"


def test_a_version_without_a_tag_is_refused(folder: Path) -> None:
    with pytest.raises(StackError, match=r"has no tag v2.0 or 2.0"):
        open_history(str(folder), quiet).tagged("peft", "2.0")


def test_a_lock_file_may_name_a_commit_in_place_of_a_version(folder: Path) -> None:
    short = git(folder, "rev-parse", "--short=7", "HEAD")

    assert open_history(str(folder), quiet).tagged("peft", f"@{short}").subject == "Second"


def test_a_checkout_has_the_files_of_its_commit(folder: Path, tmp_path: Path) -> None:
    history = open_history(str(folder), quiet)
    history.clone_into(tmp_path / "scratch")
    history.check_out(history.commit("v1.0"), tmp_path / "scratch" / "first")

    assert (tmp_path / "scratch" / "first" / "file").read_text() == "1"
    # As what derives a version from git asks it.
    assert git(tmp_path / "scratch" / "first", "describe", "--tags") == "v1.0"


def test_nothing_is_written_into_the_repository_of_a_user(folder: Path, tmp_path: Path) -> None:
    before = all_of(folder)
    history = open_history(str(folder), quiet)
    history.clone_into(tmp_path / "scratch")
    history.check_out(history.commit("HEAD"), tmp_path / "scratch" / "head")

    assert all_of(folder) == before


def test_a_hook_of_git_in_which_it_runs_names_another_repository_and_does_no_harm(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    commit(other, "Other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))

    assert open_history(str(folder), quiet).commit("HEAD").subject == "Second"


def test_a_linked_worktree_is_a_repository(folder: Path, tmp_path: Path) -> None:
    git(folder, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"), "v1.0")
    history = open_history(str(tmp_path / "linked"), quiet)
    history.clone_into(tmp_path / "scratch")
    history.check_out(history.commit("main"), tmp_path / "scratch" / "main")

    assert history.commit("HEAD").subject == "First"
    assert (tmp_path / "scratch" / "main" / "file").read_text() == "2"


def test_uncommitted_changes_are_refused(folder: Path) -> None:
    (folder / "file").write_text("3")

    with pytest.raises(StackError, match="has changes that are in no commit, and would not be measured"):
        open_history(str(folder), quiet)


def test_files_that_git_does_not_follow_are_no_changes(folder: Path) -> None:
    (folder / "notes").write_text("3")

    assert open_history(str(folder), quiet).commit("HEAD").subject == "Second"


def test_a_shallow_clone_is_refused(folder: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", folder.as_uri(), "shallow")

    with pytest.raises(StackError, match="is a shallow clone, without the commits between; run git fetch --unshallow"):
        open_history(str(tmp_path / "shallow"), quiet)


def test_a_clone_without_files_is_refused(folder: Path, tmp_path: Path) -> None:
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", folder.as_uri(), "partial")

    with pytest.raises(StackError, match="is a partial clone, without the files of its commits; name its URL"):
        open_history(str(tmp_path / "partial"), quiet)


def test_a_folder_within_a_repository_is_refused(folder: Path) -> None:
    (folder / "inside").mkdir()

    with pytest.raises(StackError, match="is not a git repository itself, it lies in one; name that, without inside/"):
        open_history(str(folder / "inside"), quiet)


def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="not a git repository"):
        open_history(str(tmp_path), quiet)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="missing: no such folder; name the folder or the URL"):
        open_history(str(tmp_path / "missing"), quiet)


def test_without_git_what_to_do_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(StackError, match="git is not on PATH"):
        open_history(str(folder), quiet)


def test_a_url_is_cloned_once_and_fetched_from_then_on(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    open_history(folder.as_uri(), said.append)
    commit(folder, "Third")
    history = open_history(folder.as_uri(), said.append)

    assert history.commit("main").subject == "Third"
    assert [line.split()[0] for line in said] == ["cloning", "fetching", "fetching"]


def test_files_of_a_url_are_had_as_they_are_checked_out(folder: Path, tmp_path: Path) -> None:
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    history = open_history(folder.as_uri(), quiet)
    (clone,) = (tmp_path / "cache" / "repositories").glob("*/repository.git")
    missing = git(clone, "rev-list", "--objects", "--all", "--missing=print")
    history.clone_into(tmp_path / "scratch")
    history.check_out(history.commit("v1.0"), tmp_path / "scratch" / "first")

    assert sum(line.startswith("?") for line in missing.splitlines()) == 2
    assert (tmp_path / "scratch" / "first" / "file").read_text() == "1"


class Guarded(SimpleHTTPRequestHandler):
    """Files for whoever has the password."""

    def do_GET(self) -> None:
        expected = base64.b64encode(f"user:{SECRET}".encode()).decode()
        if self.headers.get("Authorization") == f"Basic {expected}":
            super().do_GET()
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic realm=x")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[str]:
    git(tmp_path, "clone", "-q", "--bare", str(folder), "served.git")
    git(tmp_path / "served.git", "update-server-info")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(tmp_path))) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"127.0.0.1:{served.server_port}/served.git"
        served.shutdown()
        thread.join()


def test_credentials_of_a_url_reach_the_server_and_no_file(server: str, tmp_path: Path) -> None:
    history = open_history(f"http://user:{SECRET}@{server}", quiet)
    open_history(f"http://user:{SECRET}@{server}", quiet)
    history.check_out(history.commit("main"), tmp_path / "checkout")

    assert (tmp_path / "checkout" / "file").read_text() == "2"
    assert history.name == absolute_repository(f"http://user:{SECRET}@{server}") == f"http://***@{server}"
    stored = {**all_of(tmp_path / "cache"), **all_of(tmp_path / "checkout")}
    assert [name for name, content in stored.items() if SECRET.encode() in content] == []


def test_what_git_says_of_a_url_is_told_without_credentials(server: str) -> None:
    with pytest.raises(StackError, match=r"git clone in .*127\.0\.0\.1") as failed:
        open_history(f"http://user:{SECRET}x@{server}", quiet)

    assert SECRET not in str(failed.value)


def test_names_of_repositories_are_made_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")

    assert absolute_repository("peft") == "/tmp/peft"
    assert absolute_repository("git@github.com:huggingface/peft.git") == "git@github.com:huggingface/peft.git"
