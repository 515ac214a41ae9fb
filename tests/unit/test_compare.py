"""`llmbench compare`, as it is typed, on result files that are made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from typer import Typer
from typer.testing import CliRunner
from typer.testing import Result as Shown

import surroundings
from pytest_llmbench.cli.compare import compare
from pytest_llmbench.judge.plan import Plan
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement, Outcome, Process
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.stack import Source
from pytest_llmbench.store.journal import Asked, Journal, Named, Taken
from pytest_llmbench.store.pair import Pair
from pytest_llmbench.store.results import Result, ResultLog
from pytest_llmbench.tables.selection import Selected
from pytest_llmbench.trials.comparison import FailOn

app = Typer()
app.command("compare")(compare)


def here(packages: dict[str, str], device: str = "NVIDIA H200") -> Environment:
    return surroundings.environment(device=device, driver="570", cuda="13.0", python="3.11", packages=packages)


OLD, NEW = here({"torch": "2.9", "peft": "0.17"}), here({"torch": "2.9", "peft": "0.21"})


def result(row: str, environment: Environment, kernels: float = 100.0, outcome: Outcome = "ok", **more: Any) -> Result:
    process = Process(outcome=outcome, reason="why", metrics={"flops_per_sample": kernels})
    measurement = Measurement(
        case=Case.custom("m:f", name=row),
        workload=Workload(),
        environment=environment,
        processes=(process,),
        measured_at="now",
    )
    return Result(
        nodeid=f"t.py::test_speed[{row}]",
        table="speed",
        row=row,
        measurement=measurement,
        verdict=RowVerdict(status="no baseline", reason="r"),
        decision="pass",
        message="",
        seconds=1.0,
        **more,
    )


def written(path: Path, *results: Result) -> Path:
    log = ResultLog(path)
    for one in results:
        log.append(one)
    log.close()
    return path


def shown(a: Path, *more: Path | str) -> Shown:
    return CliRunner(env={"COLUMNS": "110"}).invoke(app, [str(a), *map(str, more)])


def of_pairs(path: Path, *kernels: float, command: Literal["ab", "bisect"] = "ab") -> Path:
    """The file of an `llmbench ab` with one pair for each number of kernels in B; in A they are a hundred."""
    case = result("r", OLD).measurement.case
    asked = Asked(
        command=command,
        a=Named("old", dict(OLD.packages)),
        b=Named("new", dict(NEW.packages)),
        source=Source(),
        selected=(Selected("speed", "r", case),),
        workload=Workload(),
        plan=Plan(screen=2, max_processes=8, looks=2),
        timeout_seconds=1.0,
    )
    with Journal.begin(path, asked) as journal:
        for count in kernels:
            sides = (result("r", OLD).measurement, result("r", NEW, kernels=count).measurement)
            journal.add(Taken(case="speed[r]", pair=Pair(first="a", a=sides[0], b=sides[1])))
    return path


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return written(tmp_path / "a.jsonl", result("same", OLD), result("moves", OLD), result("gone", OLD))


@pytest.fixture
def after(tmp_path: Path) -> Path:
    return written(tmp_path / "b.jsonl", result("same", NEW), result("moves", NEW, kernels=150.0), result("new", NEW))


def test_one_file_of_pairs_is_shown_again(tmp_path: Path) -> None:
    seen = shown(of_pairs(tmp_path / "ab.jsonl", 100.0, 100.0))

    assert (seen.exit_code, "peft 0.17 -> 0.21" in seen.stdout) == (0, True)
    assert "1 unchanged" in seen.stdout


def test_pairs_that_were_not_measured_to_the_end_are_shown_as_open(tmp_path: Path) -> None:
    seen = shown(of_pairs(tmp_path / "ab.jsonl", 150.0), "--fail-on", "undecided")

    assert seen.exit_code == 1
    assert "+50.0 %" in seen.stdout
    assert "not measured to the end: speed[r]" in seen.stdout


def test_a_tolerance_counts_for_pairs_that_were_measured_already(tmp_path: Path) -> None:
    file = of_pairs(tmp_path / "ab.jsonl", 150.0, 150.0)

    assert "1 unchanged" in shown(file, "--tolerance", "flops_per_sample=60%").stdout


def test_a_bisection_is_not_shown_as_a_comparison(tmp_path: Path) -> None:
    seen = shown(of_pairs(tmp_path / "bisect.jsonl", command="bisect"))

    assert (seen.exit_code, "llmbench bisect" in seen.stderr) == (2, True)


def test_one_file_of_a_run_alone_is_refused(before: Path) -> None:
    seen = shown(before)

    assert (seen.exit_code, "is not of llmbench ab" in seen.stderr) == (2, True)


def test_rows_of_the_same_name_are_held_against_each_other(before: Path, after: Path) -> None:
    lines = [line.split() for line in shown(before, after).stdout.splitlines()]

    assert ["same", "1", "metric", "unchanged"] in lines
    assert ["moves", "1", "metric", "regressed"] in lines
    assert ["flops/sample", "100", "150", "+50.0", "%", "regressed"] in lines


def test_packages_that_differ_stand_on_top(before: Path, after: Path) -> None:
    assert "  peft 0.17 -> 0.21" in shown(before, after).stdout.splitlines()


def test_rows_on_one_side_are_named(before: Path, after: Path) -> None:
    text = shown(before, after).stdout

    assert "only in A, 1 row: speed[gone]" in text
    assert "only in B, 1 row: speed[new]" in text


def test_of_several_results_for_a_row_the_last_counts(before: Path, tmp_path: Path) -> None:
    rerun = written(tmp_path / "b.jsonl", result("moves", NEW, kernels=150.0), result("moves", NEW))

    assert "1 unchanged" in shown(before, rerun).stdout


def test_the_exit_code_says_what_was_asked_for(before: Path, after: Path) -> None:
    assert shown(before, after).exit_code == 0
    assert shown(before, after, "--fail-on", "regressed").exit_code == 1
    assert shown(before, before, "--fail-on", "moved", "--fail-on", "inconclusive").exit_code == 0


def test_a_row_that_vanished_is_unmeasured(before: Path, tmp_path: Path) -> None:
    fewer = written(tmp_path / "b.jsonl", result("same", NEW), result("moves", NEW))

    assert shown(before, fewer, "--fail-on", "regressed").exit_code == 0
    assert shown(before, fewer, "--fail-on", "unmeasured").exit_code == 1


def test_a_tolerance_lets_a_metric_move(before: Path, after: Path) -> None:
    allowed = shown(before, after, "--tolerance", "flops_per_sample=60%", "--fail-on", "regressed")

    assert allowed.exit_code == 0
    assert "2 unchanged" in allowed.stdout


def test_a_library_that_a_side_lacks_is_unavailable(before: Path, tmp_path: Path) -> None:
    lacking = written(tmp_path / "b.jsonl", result("same", NEW, outcome="unavailable"))
    found = shown(before, lacking)

    assert found.exit_code == 3
    assert "1 unavailable" in found.stdout
    assert "unavailable in B: why" in found.stdout


@pytest.mark.parametrize(
    ("in_a", "in_b", "failing"),
    [
        ("ok", "unavailable", ["regressed", "moved", "undecided", "unmeasured", "inconclusive"]),
        ("unavailable", "ok", ["unmeasured", "inconclusive"]),
        ("unavailable", "unavailable", ["unmeasured", "inconclusive"]),
    ],
)
def test_a_row_that_became_unavailable_fails_and_one_that_always_was_has_no_baseline(
    tmp_path: Path, in_a: Outcome, in_b: Outcome, failing: list[str]
) -> None:
    a = written(tmp_path / "a.jsonl", result("same", OLD), result("r", OLD, outcome=in_a))
    b = written(tmp_path / "b.jsonl", result("same", NEW), result("r", NEW, outcome=in_b))

    assert [word for word in FailOn if shown(a, b, "--fail-on", word).exit_code == 1] == failing


def test_another_device_is_not_comparable(before: Path, tmp_path: Path) -> None:
    elsewhere = written(tmp_path / "b.jsonl", result("same", here({}, device="NVIDIA A100")))

    assert "device NVIDIA H200 -> NVIDIA A100" in shown(before, elsewhere).stdout


def test_the_report_is_written_as_markdown_and_json(before: Path, after: Path, tmp_path: Path) -> None:
    shown(before, after, "--markdown", str(tmp_path / "out" / "r.md"), "--json", str(tmp_path / "r.json"))

    assert "| peft | 0.17 | 0.21 |" in (tmp_path / "out" / "r.md").read_text()
    assert '"status": "regressed"' in (tmp_path / "r.json").read_text()


def test_files_that_cannot_be_compared_are_refused(before: Path, tmp_path: Path) -> None:
    (tmp_path / "rubbish").write_text("rubbish\n")
    (tmp_path / "empty").write_text("")
    for name, told in (("rubbish", "line 1"), ("empty", "no result in it"), ("missing", "cannot be read")):
        refused = shown(before, tmp_path / name)
        assert refused.exit_code == 2
        assert told in refused.stderr
    assert shown(before, before, "--tolerance", "speed=1%").exit_code == 2
