"""The Markdown of a pull request: what a reviewer reads first, and that nothing in it is markup by accident."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.testing import CliRunner

from pytest_llmbench.cli import app
from pytest_llmbench.reports.markdown import MAX_CHARACTERS, markdown_report, write_step_summary
from pytest_llmbench.schema.workload import parse_injection

if TYPE_CHECKING:
    from tests.reports.conftest import Bench, Whole


def test_the_first_line_is_the_verdict(bench: Bench) -> None:
    text = markdown_report([bench.result(row="a", slower=0.1), bench.result(row="b")])

    assert text.splitlines()[0] == (
        "### llmbench: 1 of 2 rows failed (\N{MULTIPLICATION X} 1 regressed, \N{CHECK MARK} 1 unchanged)"
    )


def test_a_run_without_a_failure_says_that_all_passed(bench: Bench) -> None:
    assert markdown_report([bench.result()]).startswith("### llmbench: 1 row passed (")


def test_what_was_skipped_is_not_said_to_have_passed(bench: Bench) -> None:
    text = markdown_report([bench.result(row="a"), bench.result(row="b", decision="skip")])

    assert text.startswith("### llmbench: 1 of 2 rows passed (")


def test_what_failed_stands_unfolded_with_its_sentence(bench: Bench) -> None:
    text = markdown_report([bench.result(row="a", slower=0.1), bench.result(row="b")])
    unfolded, folded = text.split("<details>", 1)

    assert "speed&#91;a&#93;** regressed: " in unfolded
    assert "device_busy_seconds_per_sample 0.1 -&gt; 0.11 s, +10.0 %" in unfolded
    assert "| b |" in folded
    assert "| b |" not in unfolded


@pytest.mark.parametrize("planted", ["device=10%", "memory=64MiB"])
def test_what_was_planted_is_named(bench: Bench, planted: str) -> None:
    done = bench.result(slower=0.1)
    workload = msgspec.structs.replace(done.measurement.workload, injection=parse_injection(planted))
    measurement = msgspec.structs.replace(done.measurement, workload=workload)

    assert f"Planted on purpose: {planted}." in markdown_report(
        [msgspec.structs.replace(done, measurement=measurement)]
    )


def test_new_packages_are_named_once(bench: Bench) -> None:
    text = markdown_report([bench.result(row=row, slower=0.1) for row in "ab"])

    [line] = [line for line in text.splitlines() if line.startswith("New since")]
    assert line == "New since the baseline: torch 2.11.0 -&gt; 2.12.0; bitsandbytes 0.48.2 -&gt; 0.50.2"


def test_a_table_follows_an_empty_line_without_which_it_is_not_one(bench: Bench) -> None:
    lines = markdown_report([bench.result()]).splitlines()
    summary = lines.index("<details><summary>speed: 1 row</summary>")

    assert lines[summary + 1] == ""
    assert lines[summary + 2].startswith("| Row | metric |")


def test_a_name_is_never_markup_nor_a_mention(bench: Bench) -> None:
    text = markdown_report([bench.result(row="<b>|@team *x*", slower=0.1)])

    assert not any(bad in text for bad in ("<b>", "|@", "@team", "*x*"))
    assert "&lt;b&gt;&#124;&#64;&#8203;team &#42;x&#42;" in text


@pytest.mark.xdist_group("browser")  # whose process has made up all rows
def test_all_96_rows_fit_into_a_comment(whole: Whole) -> None:
    assert len(markdown_report(whole.nights[1])) <= MAX_CHARACTERS


def test_a_table_that_does_not_fit_is_named_instead(bench: Bench) -> None:
    text = markdown_report([bench.result(row=row) for row in "abcdefgh"], max_characters=900)

    assert len(text) <= 900
    assert "Too long to show here: speed" in text


def test_the_step_summary_is_appended_to(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")

    told = write_step_summary([bench.result()], {"GITHUB_STEP_SUMMARY": str(path)})

    assert told is None
    assert path.read_text().startswith("before\n### llmbench: 1 row passed")


def test_without_the_variable_there_is_no_step_summary(bench: Bench) -> None:
    assert write_step_summary([bench.result()], {}) is None


def test_a_step_summary_that_cannot_be_written_is_told(bench: Bench, tmp_path: Path) -> None:
    told = write_step_summary([bench.result()], {"GITHUB_STEP_SUMMARY": str(tmp_path)})

    assert told == f"GITHUB_STEP_SUMMARY={tmp_path} cannot be written: Is a directory"


def test_the_command_prints_it_and_the_newest_result_counts(bench: Bench, write: Callable[..., Path]) -> None:
    new = write(bench.result(day=24), name="new")
    old = write(bench.result(day=20, slower=0.1), name="old")

    printed = CliRunner().invoke(app, ["report", str(new), str(old), "--markdown"])

    assert printed.exit_code == 0
    assert printed.stdout.startswith("### llmbench: 1 row passed")
