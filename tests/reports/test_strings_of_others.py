"""What others wrote, in every output: no terminal and no CI server finds anything to obey in it."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import msgspec
import pytest

import surroundings
from measurements import good, measured
from pytest_llmbench.judge.compare import judge
from pytest_llmbench.reports.changes import markdown_changes, render_changes, sentence_on, summary_of
from pytest_llmbench.reports.comparison import markdown, to_json
from pytest_llmbench.reports.comparison import render as render_comparison
from pytest_llmbench.reports.export import csv, junit
from pytest_llmbench.reports.html import ResultFile, html_report
from pytest_llmbench.reports.markdown import markdown_report, write_step_summary
from pytest_llmbench.reports.summary import not_run, unavailable
from pytest_llmbench.reports.table import report_tables
from pytest_llmbench.reports.terminal import render
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement, Process, Round
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.baseline import BaselineFile, BaselineRow, decode, encode
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.changes import changes
from pytest_llmbench.store.results import Result, ResultLog, read_results
from pytest_llmbench.trials.comparison import compare_files

HOSTILE = {
    "title": "\x1b]0;owned\x07",
    "clear": "\x1b[2J",
    "c1": "\x9b31m",
    "bidi": "\u202egnp.exe\u2066",
    "mark": "\u200f\u061c",
    "separator": "a\u2028b\u2029c\x85d",
    "invisible": "\ufeff\u200b\u2060\u00ad",
    "return": "a\rb\x08\x7f",
    "github": "::error::gone",
    "github folded": "x" * 30 + "::error::gone" + "y" * 200,
    "azure": "##[error]gone ##vso[task.complete]",
    "private": "\U000f0000\U000f0001",
}


def environment(text: str) -> Environment:
    return surroundings.environment(device="cpu", packages={"torch": text, text: "1"}, cpu=text, system=text)


def measurement(text: str) -> Measurement:
    process = good(
        {"samples_per_second": 2.0, "python_calls_per_sample": 100.0},
        missing={"peak_reserved_bytes": text},
        rounds=(Round(1.0, 2, 2),),
        ran={"attention": text},
        phase_seconds={text: 1.0},
    )
    return measured(
        process,
        case=Case.custom("m:f", name=text),
        workload=Workload(scale="smoke", device="cpu"),
        environment=environment(text),
        measured_at=text,
    )


def written(path: Path, text: str) -> tuple[Result, ...]:
    """Results as a hostile program writes them, read as ours are: one that regressed, one that crashed."""
    now = measurement(text)
    slow = msgspec.structs.replace(now.processes[0], metrics={"python_calls_per_sample": 200.0})
    regressed = msgspec.structs.replace(now, processes=(slow,))
    crashed = msgspec.structs.replace(now, processes=(Process(outcome="crashed", reason=text),))
    lacking = msgspec.structs.replace(now, processes=(Process(outcome="unavailable", reason=text),))
    stored = BaselineFile(table="t").with_row("r", BaselineRow.of(now, because=text), environment(text))
    log = ResultLog(path)
    for number, one in enumerate((regressed, crashed, lacking)):
        verdict = judge(one, stored.reference("r"))
        log.append(
            Result(
                nodeid=f"{text}::{number}",
                table=text,
                row=f"{text}{number}",
                measurement=one,
                verdict=msgspec.structs.replace(verdict, reason=f"{text}\n{text}"),
                decision="fail",
                message=f"{text}: {text}\n{text}",
                seconds=1.0,
            )
        )
    log.close()
    return read_results(path)


def harmless(output: str) -> None:
    found = {one for one in output if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")} - {"\n", "\t"}
    assert not found, ascii(sorted(found))
    lines = [line for line in output.splitlines() if line.strip().startswith("::") or re.search(r"##(\[|vso)", line)]
    assert not lines


@pytest.fixture(params=[*HOSTILE.values()], ids=[*HOSTILE])
def text(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_no_report_of_results_holds_what_is_obeyed(tmp_path: Path, text: str) -> None:
    results = written(tmp_path / "r.jsonl", text)
    write_step_summary(results, {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary")})

    for width in (30, 80, 120):
        harmless(render(report_tables(results), width=width, color=False))
    harmless("\n".join([*(result.message for result in results), *unavailable(results)]))
    harmless(markdown_report(results))
    harmless((tmp_path / "summary").read_text())
    harmless(csv.export(results))
    harmless(junit.export(results))


def test_no_page_holds_what_is_obeyed(tmp_path: Path, text: str) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    results = written(tmp_path / "r.jsonl", text)

    page = html_report([ResultFile("r", results)], store=BaselineStore(tmp_path), published={})

    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    found = {one for one in body if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")} - {"\n", "\t"}
    assert not found
    assert not set("\u202e\u2066\u200f\u061c\ufeff\u2060") & set(body)


def test_no_review_of_baselines_holds_what_is_obeyed(tmp_path: Path, text: str) -> None:
    sides = []
    for name, said, rows in (("before", "plain", ("r", "gone")), ("after", text, ("r", text))):
        file = BaselineFile(table="t")
        for row in rows:
            file = file.with_row(row, BaselineRow.of(measurement(said), because=said), environment(said))
        (tmp_path / name / "cpu").mkdir(parents=True)
        (tmp_path / name / "cpu" / "t.json").write_bytes(encode(file))
        sides.append(BaselineStore(tmp_path / name))

    found = changes(*sides, names=("main", "here"))

    assert len(found.rows) == 3
    harmless(render_changes(found, width=100, color=False))
    harmless(markdown_changes(found))
    harmless("\n".join([*summary_of(found), *sentence_on(found, command="c")]))


def test_no_comparison_holds_what_is_obeyed(tmp_path: Path, text: str) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    written(a, text)
    written(b, f"{text}2")

    comparison = compare_files(a, b, {}, print)

    for width in (30, 120):
        harmless(render_comparison(comparison, width=width, color=False, every_metric=True))
    harmless(markdown(comparison, every_metric=True))
    harmless(to_json(comparison))


def test_a_baseline_that_a_program_edited_is_told_of_escaped(tmp_path: Path, text: str) -> None:
    store = BaselineStore(tmp_path)
    clean = measurement("x")
    path = store.record("t", "r", clean, "first")
    edited = decode(path.read_bytes(), path).with_row(
        text, BaselineRow.of(measurement(text), because=text), environment(text)
    )
    path.write_bytes(encode(edited))
    slow = msgspec.structs.replace(clean.processes[0], metrics={"python_calls_per_sample": 200.0})
    regressed = msgspec.structs.replace(clean, processes=(slow,))

    verdict = judge(regressed, store.find(clean, "t", text))

    assert verdict.package_changes
    harmless("\n".join([verdict.reason, str(verdict.explanation), *map(str, verdict.package_changes)]))
    result = Result(
        nodeid="n", table="t", row="r", measurement=clean, verdict=verdict, decision="pass", message="", seconds=1.0
    )
    harmless("\n".join(not_run(store, [result])))


def test_llmbench_show_prints_nothing_that_is_obeyed(tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE.values()):
        written(tmp_path / f"{number}.jsonl", text)
    (tmp_path / "r.jsonl").write_bytes(b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.jsonl"))))

    shown = subprocess.run(
        [sys.executable, "-m", "pytest_llmbench.cli", "show", str(tmp_path / "r.jsonl")],
        capture_output=True,
        text=True,
        check=True,
    )

    harmless(shown.stdout + shown.stderr)
    assert r"\x1b]0;owned\x07" in shown.stdout
