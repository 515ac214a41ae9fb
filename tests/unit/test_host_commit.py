"""Files of a commit, read past whatever the working tree has made of them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from library import commit, git
from pytest_llmbench.host.commit import Commit, CommitError, commit_at

FILE = PurePosixPath("baselines/gpu/t.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_text("then")
    commit(tmp_path)
    return tmp_path


def test_a_file_is_read_as_it_was(folder: Path) -> None:
    (folder / FILE).write_text("now")

    found = commit_at(folder / "baselines", "HEAD")
    files = found.files(PurePosixPath("baselines"))

    assert list(files) == [FILE]
    assert found.content(FILE, files[FILE], most_mib=1) == b"then"


def test_a_folder_that_is_gone_from_the_working_tree_is_still_in_its_repository(folder: Path) -> None:
    git(folder, "rm", "-rq", "baselines")

    found = commit_at(folder / "baselines", "HEAD")

    assert found.place_of(folder / "baselines") == PurePosixPath("baselines")


def test_a_name_that_is_no_ascii_is_read(folder: Path) -> None:
    (folder / "baselines" / "ü\n*.json").write_text("x")
    commit(folder)

    assert PurePosixPath("baselines/ü\n*.json") in commit_at(folder, "HEAD").files(PurePosixPath("baselines"))


def test_a_committed_link_is_not_followed(folder: Path) -> None:
    (folder / "baselines" / "link.json").symlink_to("/etc/passwd")
    commit(folder)
    found = commit_at(folder, "HEAD")
    place = PurePosixPath("baselines/link.json")

    with pytest.raises(CommitError, match="is a symbolic link, which is not followed"):
        found.content(place, found.files(place)[place], most_mib=1)


def test_a_committed_file_that_is_too_large_is_not_read(folder: Path) -> None:
    (folder / FILE).write_bytes(b" " * (2**20 + 1))
    commit(folder)
    found = commit_at(folder, "HEAD")

    with pytest.raises(CommitError, match=r"baselines/gpu/t\.json has 1 MiB, and no such file has more than 1 MiB"):
        found.content(FILE, found.files(FILE)[FILE], most_mib=1)


def test_a_link_of_the_working_tree_leads_to_no_other_place(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "linked").symlink_to("elsewhere")

    assert commit_at(folder, "HEAD").place_of(folder / "linked") == PurePosixPath("linked")


def test_a_checkout_that_is_reached_by_a_link_is_the_repository(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    way = tmp_path_factory.mktemp("other") / "way"
    way.symlink_to(folder)

    assert commit_at(way / "baselines", "HEAD").place_of(way / "baselines") == PurePosixPath("baselines")


def test_three_dots_are_the_merge_base(folder: Path) -> None:
    base = git(folder, "rev-parse", "HEAD")
    git(folder, "checkout", "-qb", "change")
    (folder / "a").write_text("")
    commit(folder)
    git(folder, "checkout", "-q", "main")
    (folder / "b").write_text("")
    commit(folder)
    git(folder, "checkout", "-q", "change")

    assert commit_at(folder, "main...").id == base
    assert commit_at(folder, "main...change").id == base


def test_histories_without_a_common_commit_have_no_merge_base(folder: Path) -> None:
    git(folder, "checkout", "-q", "--orphan", "other")
    (folder / "other").write_text("")
    commit(folder)

    with pytest.raises(
        CommitError, match="knows no commit that both come from; fetch it, as by `git fetch origin main`"
    ):
        commit_at(folder, "main...")


@pytest.mark.parametrize("revision", ["HEAD", "main", "v1", "HEAD^{commit}"])
def test_whatever_git_takes_for_a_commit_is_one(folder: Path, revision: str) -> None:
    git(folder, "tag", "v1")

    assert commit_at(folder, revision).id == git(folder, "rev-parse", "HEAD")


@pytest.mark.parametrize("revision", ["", " ", "-1", "--all", "a\x00b", "\x1b[31m", "HEAD^{tree}", "main..HEAD", "no"])
def test_what_is_no_commit_is_refused_in_a_printable_sentence(folder: Path, revision: str) -> None:
    with pytest.raises(CommitError) as refused:
        commit_at(folder, revision)

    assert str(refused.value).isprintable()


def test_a_commit_is_shown_by_its_name_and_its_first_digits(folder: Path) -> None:
    assert str(Commit(folder, "main", "0123456789abcdef")) == "main (0123456789)"
    assert str(Commit(folder, "0123456789", "0123456789abcdef")) == "0123456789"


def test_a_folder_in_no_repository_is_told_with_what_git_says(tmp_path: Path) -> None:
    with pytest.raises(CommitError, match=r"no git repository holds it \(fatal: not a git repository"):
        commit_at(tmp_path / "baselines", "HEAD")


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")

    with pytest.raises(CommitError, match=r"HEAD: .* has no such commit"):
        commit_at(tmp_path / "baselines", "HEAD")
