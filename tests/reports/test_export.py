"""What other tools read: by their own parsers where a package offers one, else by their published format."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from xml.etree import ElementTree as ET

import msgspec
import pytest
import typer
from typer.testing import CliRunner
from typer.testing import Result as Ran

from pytest_llmbench.cli.export import export as command
from pytest_llmbench.reports.export import Format, export
from pytest_llmbench.schema.environment import CiRun, Origin, Repository
from pytest_llmbench.schema.measurement import Process
from pytest_llmbench.store.results import Result

if TYPE_CHECKING:
    from tests.reports.conftest import Bench

GIB = 2**30
app = typer.Typer()
app.command()(command)


def crashed(result: Result) -> Result:
    """The same row, had its process died."""
    dead = (Process(outcome="crashed", reason="killed by signal 9"),)
    return msgspec.structs.replace(
        result, measurement=msgspec.structs.replace(result.measurement, processes=dead), decision="fail", message="died"
    )


def loaded(results: Sequence[Result], to: Format, **options: Any) -> Any:
    return json.loads(export(results, to, **options))


def lines(results: Sequence[Result]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(export(results, "csv"))))


def ran(*arguments: str | Path) -> Ran:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def compare(*files: Path) -> subprocess.CompletedProcess[str]:
    """`pytest-benchmark compare`, as a user types it."""
    if find_spec("pytest_benchmark") is None:
        pytest.skip("pytest-benchmark reads its own file: pip install 'pytest-llmbench[benchmark]'")
    start = [
        sys.executable,
        "-c",
        "from pytest_benchmark.cli import main; main()",
        "compare",
        "--columns=min,mean,rounds,ops",
    ]
    return subprocess.run([*start, *files], capture_output=True, text=True, check=False, cwd=files[0].parent)


def test_pytest_benchmark_compares_two_runs(bench: Bench, tmp_path: Path) -> None:
    before, after = tmp_path / "0001_before.json", tmp_path / "0002_after.json"
    before.write_text(export([bench.result(processes=3, noise=0.01)], "pytest-benchmark"))
    after.write_text(export([bench.result(processes=3, noise=0.01, slower=0.1)], "pytest-benchmark"))

    compared = compare(before, after)

    assert compared.returncode == 0, compared.stderr
    rows = [line.split() for line in compared.stdout.splitlines() if line.startswith("speed[a]")]
    assert ["0001_befo" in rows[0][1], "0002_afte" in rows[1][1]] == [True, True]
    assert all("3" in row for row in rows)


def test_a_round_is_told_in_seconds_per_sample(bench: Bench) -> None:
    [benchmark] = loaded([bench.result(speed=4.0)], "pytest-benchmark")["benchmarks"]

    assert benchmark["stats"]["data"] == [0.25]
    assert benchmark["stats"]["ops"] == 4.0
    assert benchmark["fullname"] == "tests/tables/test_speed.py::test_speed[a]"


def test_the_other_metrics_and_the_verdict_are_extra_information(bench: Bench) -> None:
    [benchmark] = loaded([bench.result(slower=0.1)], "pytest-benchmark")["benchmarks"]

    extra = benchmark["extra_info"]
    assert (extra["verdict"], extra["peak_reserved_bytes"]) == ("regressed", 20 * GIB)
    assert extra["packages"]["torch"] == "2.12.0"


def test_statistics_are_those_of_pytest_benchmark(bench: Bench) -> None:
    stats = pytest.importorskip("pytest_benchmark.stats").Stats()
    [benchmark] = loaded([bench.result(processes=7, noise=0.1)], "pytest-benchmark")["benchmarks"]
    for value in benchmark["stats"]["data"]:
        stats.update(value)

    for name in ("min", "max", "mean", "stddev", "median", "rounds", "total", "ops"):
        assert benchmark["stats"][name] == pytest.approx(getattr(stats, name)), name


def test_bencher_has_a_measure_per_metric_with_the_range_of_the_processes(bench: Bench) -> None:
    class Metric(msgspec.Struct, forbid_unknown_fields=True):
        value: float
        lower_value: float | None = None
        upper_value: float | None = None

    text = export([bench.result(processes=3, noise=0.1)], "bencher")
    measures = msgspec.json.decode(text, type=dict[str, dict[str, Metric]])["speed[a]"]

    speed = measures["samples-per-second"]
    assert speed.lower_value is not None
    assert speed.upper_value is not None
    assert speed.lower_value < speed.value < speed.upper_value
    assert all(len(name) <= 64 for name in measures)


def test_a_metric_of_two_gpus_is_two_measures(bench: Bench) -> None:
    measures = loaded([bench.result(reserved=(10 * GIB, 20 * GIB))], "bencher")["speed[a]"]

    assert measures["peak-reserved-bytes-gpu0"]["value"] == 10 * GIB
    assert measures["peak-reserved-bytes-gpu1"]["value"] == 20 * GIB


def test_github_action_benchmark_takes_one_direction_a_file(bench: Bench) -> None:
    class Entry(msgspec.Struct, forbid_unknown_fields=True):
        name: str
        unit: str
        value: float
        range: str | None = None
        extra: str | None = None

    def names(better: str) -> set[str]:
        text = export([bench.result()], "github-action-benchmark", better=better)  # type: ignore[arg-type]
        return {entry.name.removeprefix("speed[a] ") for entry in msgspec.json.decode(text, type=list[Entry])}

    assert names("bigger") == {"samples_per_second", "tokens_per_second"}
    assert names("smaller") == {"device_busy_seconds_per_sample", "kernels_per_sample", "peak_reserved_bytes"}


def test_csv_has_a_line_per_process_metric_and_gpu(bench: Bench) -> None:
    found = lines([bench.result(processes=2, reserved=(10 * GIB, 20 * GIB))])

    memory = [(line["process"], line["gpu"], float(line["value"])) for line in found if "reserved" in line["metric"]]
    assert memory == [("1", "0", 10 * GIB), ("1", "1", 20 * GIB), ("2", "0", 10 * GIB), ("2", "1", 20 * GIB)]


def test_csv_has_a_line_for_a_process_that_measured_nothing(bench: Bench) -> None:
    [line] = lines([crashed(bench.result())])

    assert (line["outcome"], line["metric"], line["value"]) == ("crashed", "", "")


def test_csv_says_which_metrics_gate(bench: Bench) -> None:
    gates = {line["metric"]: (line["metric_verdict"], line["gates"]) for line in lines([bench.result(slower=0.1)])}

    assert gates["samples_per_second"] == ("regressed", "yes")
    assert gates["tokens_per_second"] == ("regressed", "no")


def test_csv_says_of_no_metric_that_it_gates_where_nothing_was_judged(bench: Bench) -> None:
    assert {line["gates"] for line in lines([bench.result(baseline=False)])} == {""}


def test_github_action_benchmark_tells_the_metrics_verdict_beside_the_rows(bench: Bench) -> None:
    entries = msgspec.json.decode(export([bench.result(slower=0.1)], "github-action-benchmark", better="bigger"))

    assert {entry["name"].partition(" ")[2]: entry["extra"] for entry in entries} == {
        "samples_per_second": "row: regressed, metric: regressed",
        "tokens_per_second": "row: regressed, metric: advisory",
    }


def test_a_name_is_no_formula_in_a_spreadsheet(bench: Bench) -> None:
    assert lines([bench.result(row="=1+1", baseline=False)])[0]["row"] == "'=1+1"


def test_junit_has_a_case_per_row_with_its_verdict(bench: Bench) -> None:
    results = [bench.result(row="a"), bench.result(row="b", slower=0.1), bench.result(row="c", decision="skip")]
    [suite] = ET.fromstring(export(results, "junit"))

    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    kinds = [[child.tag for child in case if child.tag != "properties"] for case in suite]
    assert kinds == [[], ["failure"], ["skipped"]]
    told = {found.get("name"): found.get("value") for found in suite[1].iter("property")}
    assert told["llmbench_verdict"] == "regressed"
    assert told["llmbench_package_changes"] == "torch 2.11.0 -> 2.12.0; bitsandbytes 0.48.2 -> 0.50.2"


def test_junit_survives_what_xml_cannot_say(bench: Bench) -> None:
    result = bench.result(row="a", decision="fail", message="<b>\x00\x1b[31m & \ud800")
    [suite] = ET.fromstring(export([result], "junit"))

    assert suite[0].find("failure") is not None


@pytest.mark.parametrize("to", get_args(Format))
def test_a_number_that_is_not_finite_stops_no_format(bench: Bench, to: Format) -> None:
    result = bench.result()
    [process] = result.measurement.processes
    odd = msgspec.structs.replace(process, metrics={**process.metrics, "loss_first": float("nan")})
    measurement = msgspec.structs.replace(result.measurement, processes=(odd,))

    assert export([msgspec.structs.replace(result, measurement=measurement)], to)


def test_the_command_prints_the_newest_result_of_a_row(bench: Bench, write: Callable[..., Path]) -> None:
    new, old = write(bench.result(day=24), name="new"), write(bench.result(day=20, slower=0.1), name="old")

    shown = ran(new, old, "--to", "csv")

    assert shown.exit_code == 0
    assert {line["verdict"] for line in csv.DictReader(io.StringIO(shown.stdout))} == {"unchanged"}


def test_the_command_names_rows_that_a_format_has_no_place_for(bench: Bench, write: Callable[..., Path]) -> None:
    shown = ran(write(bench.result(row="a"), crashed(bench.result(row="b"))), "--to", "bencher")

    assert shown.exit_code == 0
    assert list(json.loads(shown.stdout)) == ["speed[a]"]
    assert "bencher has no place for rows that measured nothing: speed[b]" in shown.stderr


def test_the_command_writes_a_file(bench: Bench, write: Callable[..., Path], tmp_path: Path) -> None:
    target = tmp_path / "out.xml"

    assert ran(write(bench.result()), "--to", "junit", "--output", target).stdout == ""
    assert ET.parse(target).getroot().tag == "testsuites"


def test_an_empty_file_is_an_error(write: Callable[..., Path]) -> None:
    path = write()
    shown = ran(path, "--to", "csv")

    assert shown.exit_code == 2
    assert f"llmbench: {path}: there is no result in it" in shown.stderr


def under_test(result: Result) -> Result:
    """The same row, measured in a run of a CI service."""
    assert result.measurement.environment is not None
    where = msgspec.structs.replace(
        result.measurement.environment,
        repository=Repository("1a2b3c4" + 33 * "0", "main", dirty=True),
        ci=CiRun("GitHub", "7", "https://github.com/a/b/actions/runs/7"),
        origins={"torch": Origin(digest="0", commit="5d6e7f8" + 33 * "0", edited={"a.py": "1"})},
    )
    return msgspec.structs.replace(result, measurement=msgspec.structs.replace(result.measurement, environment=where))


def test_csv_has_the_commit_under_test(bench: Bench) -> None:
    assert {line["commit"] for line in lines([under_test(bench.result())])} == {"1a2b3c4" + 33 * "0"}


def test_junit_has_the_repository_and_the_run_of_the_ci_service(bench: Bench) -> None:
    [suite] = ET.fromstring(export([under_test(bench.result())], "junit"))

    told = {found.get("name"): found.get("value") for found in suite[0].iter("property")}
    assert told["llmbench_repository"] == "1a2b3c4 (main), with changes"
    assert told["llmbench_ci_run"] == "https://github.com/a/b/actions/runs/7"


def test_pytest_benchmark_has_the_commit_under_test(bench: Bench) -> None:
    found = loaded([under_test(bench.result())], "pytest-benchmark")["commit_info"]

    assert (found["id"], found["dirty"], found["branch"]) == ("1a2b3c4" + 33 * "0", True, "main")


def test_pytest_benchmark_has_the_code_of_the_packages(bench: Bench) -> None:
    [row] = loaded([under_test(bench.result())], "pytest-benchmark")["benchmarks"]

    assert row["extra_info"]["packages"]["torch"].endswith("@5d6e7f8, files changed: a.py")
