"""Requirements files: read, compared and mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmbench.stacks import StackError
from pytest_llmbench.stacks.requirements import Requirements, changed_names, mixture, read_requirements


def read(folder: Path, text: str) -> Requirements:
    path = folder / "lock.txt"
    path.write_text(text)
    return read_requirements(path)


def test_names_are_normalised(tmp_path: Path) -> None:
    assert read(tmp_path, "Flash_Attn==2.8\nhuggingface.hub==1\n").lines == {
        "flash-attn": "Flash_Attn==2.8",
        "huggingface-hub": "huggingface.hub==1",
    }


def test_comments_continued_lines_and_hashes_are_understood(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "# top\npeft==0.17 \\\n    --hash=sha256:ab \\\n    --hash=sha256:cd\n    # via -r x\ntorch==2 # why\n",
    )

    assert found.lines == {"peft": "peft==0.17 --hash=sha256:ab --hash=sha256:cd", "torch": "torch==2"}
    assert found.without_hashes().lines["peft"] == "peft==0.17"


def test_included_files_belong_to_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "base.txt").write_text("torch==2\n-r more.txt\n")
    (tmp_path / "deep" / "more.txt").write_text("numpy==2\n")

    assert list(read(tmp_path, "-r deep/base.txt\npeft==1\n").lines) == ["torch", "numpy", "peft"]


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="includes itself"):
        read(tmp_path, "--requirement lock.txt\n")


def test_options_are_kept_with_paths_that_hold_anywhere(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    found = read(tmp_path, "--find-links ./wheels\n-f https://example.org/x\n--index-url=https://e.org\ntorch==2\n")

    assert found.options == (
        f"--find-links {tmp_path / 'wheels'}",
        "-f https://example.org/x",
        "--index-url=https://e.org",
    )


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("torch @ https://e.org/torch-2-py3-none-any.whl", "torch"),
        ("./wheels/peft-0.17-py3-none-any.whl", "peft"),
        ("-e git+https://e.org/x#egg=my_trainer", "my-trainer"),
        ("./my/project", "./my/project"),
        ('bitsandbytes==0.45 ; sys_platform == "linux"', "bitsandbytes"),
    ],
)
def test_all_kinds_of_requirements_have_a_name(tmp_path: Path, line: str, name: str) -> None:
    assert list(read(tmp_path, line).lines) == [name]


def test_other_lock_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"lock.txt, line 1: 'version = 1' is not a requirement; export .*uv export"):
        read(tmp_path, "version = 1\n")
    with pytest.raises(StackError, match="cannot be read"):
        read_requirements(tmp_path / "missing.txt")


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("peft==0.17", "0.17"),
        ("peft", "any"),
        ("peft>=0.1", ">=0.1"),
        ("peft @ https://e.org/p.whl", "https://e.org/p.whl"),
    ],
)
def test_the_version_is_what_is_asked_for(tmp_path: Path, line: str, version: str) -> None:
    found = read(tmp_path, line)

    assert found.version("peft") == version
    assert found.version("torch") is None


GOOD = Requirements(("--pre",), {"a": "a==1", "b": "b==1", "gone": "gone==1", "same": "same==1"})
BAD = Requirements(("--no-index",), {"a": "a==2", "b": "b==2", "new": "new==1", "same": "same==1"})


def test_what_is_asked_for_differently_has_changed() -> None:
    assert changed_names(GOOD, BAD) == ("a", "b", "gone", "new")


def test_a_mixture_takes_some_packages_of_the_other_file() -> None:
    assert mixture(GOOD, BAD, {"b", "gone", "new"}) == Requirements(
        ("--pre", "--no-index"), {"a": "a==1", "b": "b==2", "new": "new==1", "same": "same==1"}
    )
    assert mixture(GOOD, BAD, ()).lines == GOOD.lines
    assert mixture(GOOD, BAD, changed_names(GOOD, BAD)).lines == BAD.lines


def test_a_mixture_can_be_written_and_read(tmp_path: Path) -> None:
    mixed = mixture(GOOD, BAD, {"a"})

    assert read(tmp_path, mixed.text) == mixed


@pytest.mark.parametrize("end", ["", "#subdirectory=src"])
def test_of_a_commit_the_commit_is_told_and_not_where_it_comes_from(tmp_path: Path, end: str) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(f"peft @ git+file://localhost/home/me/peft@1a2b3c4{33 * '0'}{end}\n")

    assert read_requirements(path).version("peft") == "@1a2b3c4"
