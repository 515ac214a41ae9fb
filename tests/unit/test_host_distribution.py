"""Which code an installed distribution is, read from the files of small libraries."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from library import commit, edit, git, install, write_metadata
from pytest_llmbench.host.distribution import origins
from pytest_llmbench.schema.environment import MOST_EDITED, Origin, Software, changes

COMMIT = "1a2b3c4" + 33 * "0"
VCS: dict[str, Any] = {"url": "https://user:token@host/peft", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}


def origin(site: Path, name: str = "peft") -> Origin:
    return origins([name], [str(site)])[name]


def told(before: Path, after: Path) -> list[str]:
    """What changed between the libraries of two folders, which have one version."""
    sides = [Software({"peft": "0.19.2.dev0"}, origins(["peft"], [str(site)])) for site in (before, after)]
    return list(map(str, changes(["peft"], *sides)))


def test_an_untouched_install_is_itself(tmp_path: Path) -> None:
    install(tmp_path / "one")
    install(tmp_path / "other")

    assert origin(tmp_path / "one") == origin(tmp_path / "other")
    assert origin(tmp_path / "one").edited == {}


def test_a_file_edited_in_place_is_named(tmp_path: Path) -> None:
    install(tmp_path / "one")
    edit(install(tmp_path / "other") / "tuners/lora.py", "alpha = 320\n")

    assert told(tmp_path / "one", tmp_path / "other") == ["peft 0.19.2.dev0, files changed: tuners/lora.py"]


def test_an_edit_that_keeps_the_size_is_seen(tmp_path: Path) -> None:
    install(tmp_path / "one")
    edit(install(tmp_path / "other") / "tuners/lora.py", "alpha = 16\n")

    assert told(tmp_path / "one", tmp_path / "other") == ["peft 0.19.2.dev0, files changed: tuners/lora.py"]


def test_a_copy_of_an_environment_with_an_edit_is_another(tmp_path: Path) -> None:
    install(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    edit(tmp_path / "other/peft/tuners/lora.py", "alpha = 16\n")

    assert told(tmp_path / "one", tmp_path / "other") == ["peft 0.19.2.dev0, files changed: tuners/lora.py"]


def test_a_file_that_was_touched_and_not_edited_is_the_same(tmp_path: Path) -> None:
    install(tmp_path / "one")
    edit(install(tmp_path / "other") / "tuners/lora.py", "alpha = 32\n")

    assert told(tmp_path / "one", tmp_path / "other") == []


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    install(tmp_path / "one")
    (install(tmp_path / "other") / "tuners/lora.py").unlink()

    assert told(tmp_path / "one", tmp_path / "other") == ["peft 0.19.2.dev0, files changed: tuners/lora.py"]


def test_two_edits_of_one_file_are_told_apart(tmp_path: Path) -> None:
    edit(install(tmp_path / "one") / "tuners/lora.py", "alpha = 16\n")
    edit(install(tmp_path / "other") / "tuners/lora.py", "alpha = 64\n")

    assert told(tmp_path / "one", tmp_path / "other") == ["peft 0.19.2.dev0, files changed: tuners/lora.py"]


def test_another_build_of_one_version_is_another(tmp_path: Path) -> None:
    install(tmp_path / "one")
    record = next(iter((install(tmp_path / "other").parent).glob("*.dist-info"))) / "RECORD"
    record.write_text(record.read_text() + "peft/new.py,sha256=AAAA,3\n")
    (tmp_path / "other/peft/new.py").write_text("x=1")

    assert told(tmp_path / "one", tmp_path / "other")[0].startswith("peft 0.19.2.dev0, files changed")


def test_an_install_from_a_repository_has_its_commit_and_nothing_else_of_its_url(tmp_path: Path) -> None:
    install(tmp_path, **VCS)

    assert origin(tmp_path) == Origin(commit=COMMIT, digest=origin(tmp_path).digest)


def test_two_commits_are_a_change_of_the_package(tmp_path: Path) -> None:
    install(tmp_path / "one", **VCS)
    install(tmp_path / "other", url="u", vcs_info={"vcs": "git", "commit_id": "5d6e7f8" + 33 * "0"})
    record = next((tmp_path / "other").glob("*.dist-info")) / "RECORD"
    record.write_text(record.read_text().replace("alpha", "alpha").replace("sha256=", "sha256=A", 1))

    assert told(tmp_path / "one", tmp_path / "other")[0].startswith("peft 0.19.2.dev0@1a2b3c4 -> 0.19.2.dev0@5d6e7f8")


def test_two_commits_of_the_same_files_are_no_change(tmp_path: Path) -> None:
    install(tmp_path / "one", **VCS)
    install(tmp_path / "other", url="u", vcs_info={"vcs": "git", "commit_id": "5d6e7f8" + 33 * "0"})

    assert told(tmp_path / "one", tmp_path / "other") == []


def editable(site: Path, source: Path) -> Path:
    """The package's folder of an editable install."""
    folder = install(source)
    shutil.rmtree(next(source.glob("*.dist-info")))
    about = write_metadata(site, "peft", "0.19.2.dev0", url=source.as_uri(), dir_info={"editable": True})
    (about / "RECORD").write_text(f"peft.pth,sha256=AAAA,4\n{about.name}/RECORD,,\n")
    return folder


def test_an_editable_install_has_the_commit_of_its_checkout(tmp_path: Path) -> None:
    editable(tmp_path / "site", tmp_path / "source")
    made = commit(tmp_path / "source")

    found = origin(tmp_path / "site")

    assert (found.commit, found.editable, found.edited) == (made, True, {})


def test_an_editable_install_names_what_is_not_committed(tmp_path: Path) -> None:
    folder = editable(tmp_path / "site", tmp_path / "source")
    commit(tmp_path / "source")
    (folder / "tuners/lora.py").write_text("alpha = 16\n")
    (folder / "new.py").write_text("")

    assert sorted(origin(tmp_path / "site").edited) == ["new.py", "tuners/lora.py"]


def test_an_editable_install_without_git_is_told_apart_by_its_files(tmp_path: Path) -> None:
    editable(tmp_path / "site", tmp_path / "source")
    before = origin(tmp_path / "site")
    (tmp_path / "source/peft/tuners/lora.py").write_text("alpha = 16\n")

    assert before.commit is None
    assert origin(tmp_path / "site").digest != before.digest


def test_a_checkout_in_an_ignored_folder_has_not_the_commit_of_the_repository_around_it(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("source\nsite\n")
    commit(tmp_path)
    editable(tmp_path / "site", tmp_path / "source")

    assert origin(tmp_path / "site").commit is None


def test_an_editable_checkout_of_what_was_installed_is_the_same_code(tmp_path: Path) -> None:
    install(tmp_path / "one")
    editable(tmp_path / "other", tmp_path / "source")

    assert told(tmp_path / "one", tmp_path / "other") == []


def test_a_checkout_on_the_path_is_what_is_imported_and_not_the_install_behind_it(tmp_path: Path) -> None:
    install(tmp_path / "site")
    (tmp_path / "checkout/peft").mkdir(parents=True)
    (tmp_path / "checkout/peft/__init__.py").write_text("rank = 16\n")

    found = origins(["peft"], [str(tmp_path / "checkout"), str(tmp_path / "site")])["peft"]

    assert found.editable
    assert found.digest != origin(tmp_path / "site").digest


def test_no_path_of_the_machine_is_kept(tmp_path: Path) -> None:
    folder = editable(tmp_path / "site", tmp_path / "source")
    commit(tmp_path / "source")
    edit(folder / "tuners/lora.py", "alpha = 1\n")

    assert str(tmp_path) not in str(origin(tmp_path / "site"))


def test_of_many_edited_files_some_are_named_and_all_count(tmp_path: Path) -> None:
    folder = editable(tmp_path / "site", tmp_path / "source")
    commit(tmp_path / "source")
    for number in range(MOST_EDITED + 1):
        (folder / f"new{number:02}.py").write_text("")
    before = origin(tmp_path / "site")
    (folder / f"new{MOST_EDITED:02}.py").write_text("x = 1\n")

    assert len(before.edited) == MOST_EDITED
    assert origin(tmp_path / "site").digest != before.digest


def test_what_is_not_installed_has_no_origin(tmp_path: Path) -> None:
    assert origins(["peft"], [str(tmp_path)]) == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"vcs_info": 3}', '{"dir_info": []}', "null"])
def test_a_broken_direct_url_is_none(tmp_path: Path, text: str) -> None:
    install(tmp_path)
    (next(tmp_path.glob("*.dist-info")) / "direct_url.json").write_text(text)

    assert origin(tmp_path).commit is None


@pytest.mark.parametrize("row", ["peft/x.py,sha256=!!!,3", "peft/x.py", '"', "peft/y.py,sha256=é,1"])
def test_a_broken_record_does_not_end_the_run(tmp_path: Path, row: str) -> None:
    install(tmp_path)
    record = next(tmp_path.glob("*.dist-info")) / "RECORD"
    record.write_text(record.read_text() + f"{row}\n")

    assert origin(tmp_path).digest


def test_git_is_asked_about_the_folder_also_within_a_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editable(tmp_path / "site", tmp_path / "source")
    made = commit(tmp_path / "source")
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))

    assert origin(tmp_path / "site").commit == made
