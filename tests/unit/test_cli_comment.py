"""`llmbench comment`: what is known stands first, and no text of the artefact is obeyed."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner
from typer.testing import Result as Ran

from measurements import good, measured
from pytest_llmbench.cli.comment import comment
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.reports.comment import MARKER, of_gate
from pytest_llmbench.schema.case import Case
from pytest_llmbench.store.changes import Changed, Changes
from pytest_llmbench.store.results import Result, ResultLog
from surroundings import environment

COMMIT = "0123456789" * 4
RUN = "https://github.com/o/r/actions/runs/7"
HOSTILE = (
    "<script>alert(1)</script>",
    "<!-- pytest-llmbench: pull request -->",
    "</details><h1>approved</h1>",
    "[click](https://evil.example)",
    "![x](http://evil.example/x.png)",
    "www.evil.example",
    "@everyone closes #1 GH-2",
    "# heading\n\n---\n- list\n1. list\n    code\n```\nfence",
    "a | b \\| `code` ~~x~~ **b** _i_",
    "\x1b[2J\u202e\u200b::error::x\n::set-output name=x::y",
    "x" * 100_000,
    "$(id) `id` ${{ github.token }}",
)

app = typer.Typer()
app.command()(comment)


def ran(folder: Path, *options: str, commit: str = COMMIT, run: str = RUN) -> Ran:
    given = ("--out", str(folder / "comment.md"), "--commit", commit, "--run", run, *options)
    return CliRunner().invoke(app, given)


def text_of(folder: Path, *options: str) -> str:
    told = ran(folder, *options)
    assert told.exit_code == 0, told.output
    return (folder / "comment.md").read_text()


def artefact(folder: Path, text: str = "a", decision: str = "pass") -> tuple[str, str]:
    """The option with a folder whose every text is *text*."""
    where = folder / "artefact"
    where.mkdir(exist_ok=True)
    around = environment(device=text, packages={"torch": text})
    now = measured(good({"samples_per_second": 2.0}), case=Case.custom("m:f", name=text), environment=around)
    then = measured(good({"samples_per_second": 3.0}), case=Case.custom("m:f", name=text))
    result = Result(
        nodeid=text,
        table=text,
        row=text,
        measurement=now,
        verdict=judge(now, Reference(measurement=then)),
        decision="fail" if decision == "fail" else "pass",
        message=text,
        seconds=1.0,
    )
    log = ResultLog(where / "fake.jsonl")
    log.append(result)
    log.close()
    row = Changed(
        folder=text,
        table=text,
        row=text,
        kind="renamed",
        former=text,
        outcomes=(text, text),
        reason=text,
        recorded_at=text,
        fields={text: (text, text)},
        packages=(text,),
    )
    (where / "baselines.json").write_bytes(msgspec.json.encode(Changes(before=text, after=text, rows=(row,))))
    return "--artefact", str(where)


def test_the_comment_begins_with_its_marker_the_verdict_the_commit_and_the_run(tmp_path: Path) -> None:
    first, _, second, *_ = text_of(tmp_path, *artefact(tmp_path)).splitlines()

    assert first == MARKER
    assert second == f"**llmbench** passed for 0123456789: [the run]({RUN})"


def test_a_row_that_failed_is_told_with_its_reason(tmp_path: Path) -> None:
    text = text_of(tmp_path, *artefact(tmp_path, "slower", "fail"), "--conclusion", "failure")

    assert "**llmbench** ended as `failure`" in text
    assert "1 of 1 row failed" in text
    assert "slower" in text


def test_rows_that_failed_in_a_run_that_passed_are_pointed_at(tmp_path: Path) -> None:
    assert "1 row failed, and the run passed all the same" in text_of(tmp_path, *artefact(tmp_path, "a", "fail"))


def test_a_run_that_failed_although_no_row_did_is_pointed_at(tmp_path: Path) -> None:
    text = text_of(tmp_path, *artefact(tmp_path), "--conclusion", "failure")

    assert "No row of its results failed; the log of the run says what did" in text


@pytest.mark.parametrize("options", [(), ("--artefact", "nowhere.zip")])
def test_a_run_that_left_nothing_is_told(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert "It left no results that could be read" in text_of(tmp_path, *options, "--conclusion", "failure")


def test_files_by_which_the_change_is_judged_are_named(tmp_path: Path) -> None:
    (tmp_path / "changed.txt").write_text("src/a.py\n.github/workflows/x.yml\ntests/conftest.py\n@team\n")

    text = text_of(tmp_path, *artefact(tmp_path), "--changed", str(tmp_path / "changed.txt"))

    assert "review them first: .github/workflows/x.yml, tests/conftest.py" in text


@pytest.mark.parametrize(
    "name",
    ["pytest.ini", "a/.pytest.toml", "pyproject.toml", "tox.ini", "baselines/fake/t.json", "constraints-fake.txt"],
)
def test_a_file_that_could_move_the_verdict_is_of_the_gate(name: str) -> None:
    assert of_gate([name, f"docs/{name}.md"]) == [name]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_of_the_artefact_is_obeyed(tmp_path: Path, hostile: str) -> None:
    text = text_of(tmp_path, *artefact(tmp_path, hostile, "fail"), "--conclusion", "failure")

    head, _, rest = text.partition("\n")
    rest = rest.replace(RUN, "")
    assert head == MARKER
    assert len(text) <= 65_536
    assert set(re.findall(r"<[^>]*>", rest)) <= {
        "<sub>",
        "</sub>",
        "<details>",
        "</details>",
        "<summary>",
        "</summary>",
    }
    assert not re.search(r"https?://|www\.|@\w|(?<!&)#\d|GH-\d|\]\(h|```", rest, re.IGNORECASE)
    assert not re.search(r"&#64;(?!&#8203;)|&#35;(?!&#8203;)\d", rest)
    shapes = (
        r"|\*\*llmbench|<sub>|### (Full|Base)|- |\||<details>|</details>|No row|Not read|New since|x|cpu|full|Too long"
    )
    assert all(re.match(f"(?:{shapes})", line) for line in rest.splitlines() if line.strip())
    assert not {one for one in rest if unicodedata.category(one) in ("Cc", "Cf", "Co")} - {"\n"}


@pytest.mark.parametrize(
    ("commit", "run", "conclusion"),
    [
        ("main", RUN, "success"),
        (COMMIT, "https://evil.example/", "success"),
        (COMMIT, f"{RUN}) [x](y", "success"),
        (COMMIT, RUN, "**"),
    ],
)
def test_what_no_event_says_is_refused(tmp_path: Path, commit: str, run: str, conclusion: str) -> None:
    told = ran(tmp_path, "--conclusion", conclusion, commit=commit, run=run)

    assert told.exit_code == 2
    assert "take it from the event" in told.stderr
    assert not (tmp_path / "comment.md").exists()
