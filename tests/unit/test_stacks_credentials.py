"""Credentials in requirements: the installer gets them, and nothing else does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from pytest_llmbench.cli.bisect import bisect
from pytest_llmbench.schema.credentials import redacted
from pytest_llmbench.stacks.installer import Installer, InstallError
from pytest_llmbench.stacks.requirements import changed_names, read_requirements

SECRET = "S3cretT0ken"
LINES = (
    f"nope @ https://user:{SECRET}@127.0.0.1:9/nope-1.0-py3-none-any.whl",
    f"git+https://{SECRET}@127.0.0.1:9/org/nope.git@v1",
    f"nope @ git+https://{SECRET}:x-oauth-basic@127.0.0.1:9/org/nope.git@v1#subdirectory=a",
    f"https://127.0.0.1:9/nope-1.0-py3-none-any.whl?token={SECRET}#sha256=ab",
    f"-e git+https://u:{SECRET}@127.0.0.1:9/org/nope.git#egg=nope",
)
app = Typer()
app.command("bisect")(bisect)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nope @ https://user:p@ss@host/x.whl", "nope @ https://***@host/x.whl"),
        ("--extra-index-url https://u:p@host/simple", "--extra-index-url https://***@host/simple"),
        ("git+https://token@host/o/r.git@v1.2#egg=r", "git+https://***@host/o/r.git@v1.2#egg=r"),
        ("x @ https://host/x.whl?token=t&sig=s#sha256=ab", "x @ https://host/x.whl?***#sha256=ab"),
        (
            "Max retries exceeded with url: /x.whl?token=t (Caused by",
            "Max retries exceeded with url: /x.whl?*** (Caused by",
        ),
        ("Looking in indexes: https://a:b@h/s, https://c@i/s", "Looking in indexes: https://***@h/s, https://***@i/s"),
        ("torch==2.0; python_version > '3'  # a@b", "torch==2.0; python_version > '3'  # a@b"),
        ("x @ https://host/r@v1.whl", "x @ https://host/r@v1.whl"),
    ],
)
def test_users_and_queries_of_urls_are_taken_out(text: str, told: str) -> None:
    assert redacted(text) == told


@pytest.mark.parametrize("line", LINES)
def test_what_is_told_of_a_requirement_has_no_credentials_and_what_is_installed_has_them(
    tmp_path: Path, line: str
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{line}\n")
    found = read_requirements(lock)
    (name,) = found.lines

    assert SECRET in found.text
    assert SECRET not in f"{found.printable_lines} {changed_names(found, found)} {name} {found.version(name)}"


@pytest.mark.parametrize("line", LINES[::3])
def test_what_an_installer_prints_is_told_without_credentials(tmp_path: Path, line: str) -> None:
    pytest.importorskip("pip")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{line}\n")
    said: list[str] = []

    with pytest.raises(InstallError) as failed:
        Installer("pip").install(Path(sys.executable), ["--retries", "0", "-r", str(lock)], str(lock), said.append)

    assert said
    assert SECRET not in "\n".join([*said, str(failed.value)])


def test_a_bisection_is_stored_without_credentials_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    good, bad, file = tmp_path / "good.txt", tmp_path / "bad.txt", tmp_path / "r.jsonl"
    for lock, port in ((good, 8), (bad, 9)):
        lock.write_text(f"--no-index\nnope @ https://user:{SECRET}@127.0.0.1:{port}/nope-1.0-py3-none-any.whl\n")
    named = ["--good", str(good), "--bad", str(bad), "--installer", "pip"]
    monkeypatch.setenv("PIP_RETRIES", "0")

    begun = CliRunner().invoke(app, [*named, "--case", "m:f", "--scale", "smoke", "--results", str(file)])
    went_on = CliRunner().invoke(app, [*named, "--resume", str(file)])

    assert "cannot be installed with pip" in begun.stderr
    assert "cannot be installed with pip" in went_on.stderr  # and not "no longer asks for what was measured"
    assert SECRET not in "".join([begun.output, went_on.output, file.read_text()])
