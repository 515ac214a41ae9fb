"""The HTML page as text: what is on it, that it asks nothing of the network, and that what is not known is left out."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest
from typer.testing import CliRunner

from pytest_llmbench.cli import app
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.reports.table import SYMBOLS
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Evidence, Outcome, failed
from pytest_llmbench.schema.metrics import METRICS, Metric
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.published import PublishedTable
from pytest_llmbench.store.results import Result
from pytest_llmbench.tables import TABLES

pytest.importorskip("jinja2", reason="the HTML report needs jinja2: pip install 'pytest-llmbench[report]'")

from pytest_llmbench.reports.html import ResultFile, html_report

if TYPE_CHECKING:
    from tests.reports.conftest import Bench

GIB = 2**30
MEGABYTE = 10**6


class Page(HTMLParser):
    """The page's text and the attributes that matter."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.text = ""
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "action")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["style"], ["script"]):
            self.text += f" {data}"


def page(bench: Bench, *results: Result, published: dict[str, PublishedTable] | None = None) -> Page:
    return Page(html_report([ResultFile("run", results)], store=bench.store, published=published or {}))


def trend_page(bench: Bench, *runs: list[Result]) -> Page:
    files = [ResultFile(f"night-{number}", tuple(run)) for number, run in enumerate(runs)]
    return Page(html_report(files, store=bench.store, published={}))


with_whole_page = pytest.mark.xdist_group("browser")
"""What all 96 rows are drawn for is in one process of pytest-xdist, which makes them up once."""


@pytest.fixture(scope="module", name="whole_page")
def _whole_page(whole_html: str) -> Page:
    return Page(whole_html)


@with_whole_page
def test_96_rows_of_5_processes_are_below_6_megabytes(whole_page: Page) -> None:
    assert len(whole_page.html.encode()) < 6 * MEGABYTE


@with_whole_page
def test_every_address_is_a_place_on_the_page(whole_page: Page) -> None:
    assert len(whole_page.addresses) > 2 * 96
    assert {address.removeprefix("#") for address in whole_page.addresses} <= set(whole_page.ids)


@with_whole_page
def test_no_id_is_given_twice(whole_page: Page) -> None:
    assert len(whole_page.ids) == len(set(whole_page.ids))


def test_the_page_forbids_itself_the_network(bench: Bench) -> None:
    assert "Content-Security-Policy\" content=\"default-src 'none';" in page(bench, bench.result()).html


def test_a_row_of_the_page_that_was_not_run_is_there_with_its_published_numbers(
    bench: Bench, published: dict[str, PublishedTable]
) -> None:
    row = TABLES["batch_size"].rows[0]
    shown = page(bench, bench.result("batch_size", row.id, case=row.case), published=published)

    assert "1 unchanged" in shown.text
    assert "3 not run" in shown.text
    assert "published 76.14" in shown.text


def test_a_published_out_of_memory_is_shown_as_such(bench: Bench, published: dict[str, PublishedTable]) -> None:
    row = TABLES["lora_max_length"].rows[0]
    shown = page(bench, bench.result("lora_max_length", row.id, case=row.case), published=published)

    assert "published OOM" in shown.text


def test_published_numbers_do_not_stand_beside_miniatures(bench: Bench, published: dict[str, PublishedTable]) -> None:
    row = TABLES["batch_size"].rows[0]
    result = bench.result("batch_size", row.id, case=row.case, baseline=False)
    small = msgspec.structs.replace(result.measurement, workload=Workload(scale="smoke", device="cpu"))

    assert "published" not in page(bench, msgspec.structs.replace(result, measurement=small), published=published).text


def test_a_metric_that_is_not_judged_is_no_green_dot(bench: Bench) -> None:
    done = bench.result(slower=0.1)
    loose = tuple(msgspec.structs.replace(one, gates=False) for one in done.verdict.metrics)
    judged = msgspec.structs.replace(done.verdict, metrics=loose, status="unchanged")
    html = html_report(
        [ResultFile("run", (msgspec.structs.replace(done, verdict=judged),))], store=bench.store, published={}
    )

    dots = re.findall(r'<a class="dot ([\w-]+)"', html)
    assert set(dots) == {"s-advisory"}


def test_a_row_that_is_not_of_the_page_stands_beside_the_pages_columns(bench: Bench) -> None:
    row = TABLES["batch_size"].rows[0]
    other = Case(model="qwen-7b-chat", batch_size=4, loop="trainer")
    shown = page(
        bench,
        bench.result("batch_size", row.id, case=row.case),
        bench.result("batch_size", "mine-trainer", case=other),
    )

    assert "Model Batch Size Accumulation Steps Row" in shown.text
    assert "qwen-7b-chat 4 16 mine-trainer" in shown.text


def test_two_kernel_times_that_differ_read_differently(bench: Bench) -> None:
    bench.result(busy=0.1)

    text = page(bench, bench.result(busy=0.100001)).text

    assert "baseline 52.000 now 52.001" in text


def test_a_failed_row_stands_at_the_top_with_its_sentence(bench: Bench) -> None:
    text = page(bench, bench.result(row="a"), bench.result(row="b", slower=0.1)).text

    assert "1 row failed" in text
    assert re.search(r"regressed speed\[b\] (samples|device).{5,60} -> ", text)


def test_a_run_without_a_failure_says_so(bench: Bench) -> None:
    assert "No row failed" in page(bench, bench.result()).text


def test_status_is_told_by_symbol_and_word(bench: Bench) -> None:
    text = page(bench, bench.result(row="a"), bench.result(row="b", slower=0.1)).text

    assert "\N{MULTIPLICATION X} regressed" in text
    assert "\N{CHECK MARK} unchanged" in text


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_a_row_of_every_outcome_is_shown(bench: Bench, outcome: Outcome) -> None:
    result = bench.result()
    ended = failed(result.measurement.case, Workload(), outcome, "a reason", measured_at="2026-11-24T10:00:00+00:00")
    verdict = RowVerdict(status="unmeasured", reason="cannot be told")
    text = page(bench, msgspec.structs.replace(result, measurement=ended, verdict=verdict, decision="fail")).text

    assert f"outcome {outcome}: a reason" in text
    assert "unknown device" in text


@pytest.mark.parametrize("status", get_args(Status))
def test_a_row_of_every_status_is_shown_and_counted(bench: Bench, status: Status) -> None:
    result = msgspec.structs.replace(bench.result(), verdict=RowVerdict(status=status, reason="why"))

    assert f"{SYMBOLS[status]} 1 {status}" in page(bench, result).text


def test_a_metric_that_this_version_does_not_know_is_shown_by_its_name(bench: Bench) -> None:
    result = bench.result()
    [process] = result.measurement.processes
    newer = msgspec.structs.replace(process, metrics={**process.metrics, "moons_per_sample": 4.0})
    verdict = MetricVerdict(
        metric="moons_per_sample", status="regressed", baseline=2.0, now=4.0, gates=True, reason="r"
    )
    row = msgspec.structs.replace(result.verdict, metrics=(*result.verdict.metrics, verdict))
    measurement = msgspec.structs.replace(result.measurement, processes=(newer,))

    text = page(bench, msgspec.structs.replace(result, measurement=measurement, verdict=row)).text

    assert "moons per sample 2 4" in text


def test_kernels_are_shown_before_and_now(bench: Bench) -> None:
    text = page(bench, bench.result(slower=0.1)).text

    assert "gemm bf16 baseline 52.00 now 62.92 +21.0 % 364 launches" in text


@pytest.mark.parametrize(
    ("field", "heading"),
    [("kernels", "by kernel"), ("memory", "Memory by phase"), ("peak_allocations", "Alive at the peak")],
)
def test_what_no_process_noted_has_no_section(bench: Bench, field: str, heading: str) -> None:
    result = bench.result(baseline=False)
    bare = tuple(msgspec.structs.replace(process, **{field: ()}) for process in result.measurement.processes)
    measurement = msgspec.structs.replace(result.measurement, processes=bare)

    assert heading in page(bench, result).text
    assert heading not in page(bench, msgspec.structs.replace(result, measurement=measurement)).text


def test_all_that_a_process_can_say_of_the_gpu_is_shown(bench: Bench) -> None:
    result = bench.result(baseline=False)
    examples: dict[str, Any] = {"str": ("3e056f40",), "int": (3,), "float": (0.5,)}
    said = {
        field.name: value if "tuple" in str(field.type) else value[0]
        for field in msgspec.structs.fields(Evidence)
        for kind, value in examples.items()
        if kind in str(field.type)
    }
    process = msgspec.structs.replace(result.measurement.processes[0], evidence=Evidence(**said))
    measurement = msgspec.structs.replace(result.measurement, processes=(process,))

    text = page(bench, msgspec.structs.replace(result, measurement=measurement)).text

    assert "cards 3e056f40" in text
    assert "power 0.5 W" in text
    assert not [name for name in said if "_" in name and name in text]  # all have words


def test_the_memory_of_each_phase_is_shown_beside_the_baselines(bench: Bench) -> None:
    bench.result(reserved=(20 * GIB,))

    text = page(bench, bench.result(reserved=(24 * GIB,))).text

    assert "warm-up 23.00 19.00 24.00 20.00 24.00" in text
    assert "build 12.00 10.00 12.00 10.00 12.00" in text


def test_what_is_alive_at_the_peak_is_shown_beside_the_baselines(bench: Bench) -> None:
    bench.result(reserved=(20 * GIB,))

    text = page(bench, bench.result(reserved=(24 * GIB,))).text

    assert "aten::mm in MmBackward0 2 15,360.0 11,264.0" in text
    assert "before the step 8,192.0 8,192.0" in text
    assert "aten::div" not in text  # four bytes


def test_of_several_gpus_the_memory_of_the_fullest_is_shown(bench: Bench) -> None:
    text = page(bench, bench.result(reserved=(20 * GIB, 30 * GIB), baseline=False)).text

    assert "Memory by phase index 1, the fullest of 2 GPUs" in text
    assert "rounds 29.00 30.00 30.00" in text


def test_a_test_id_with_markup_stays_text(bench: Bench) -> None:
    shown = page(bench, bench.result(row="<script>alert(1)</script>", slower=0.1))

    assert "<script>alert" not in shown.html
    assert "speed[<script>alert(1)</script>]" in shown.text


def test_processes_of_a_baseline_that_was_recorded_again_are_not_shown(bench: Bench) -> None:
    result = bench.result(speed=4.0)
    bench.store.record("speed", "a", bench.result(speed=5.0, row="other").measurement, because="later")

    assert "the baseline was recorded again after this run" in page(bench, result).text


def test_without_a_store_only_the_processes_of_the_run_are_shown(bench: Bench) -> None:
    html = html_report([ResultFile("run", (bench.result(),))], store=None, published={})

    assert "k-baseline" in html
    assert "lane k-baseline" not in html


def test_changed_packages_are_marked(bench: Bench) -> None:
    text = page(bench, bench.result(slower=0.1)).text

    assert "New since the baseline torch 2.11.0 -> 2.12.0 bitsandbytes 0.48.2 -> 0.50.2" in text
    assert "changed: torch 2.11.0 2.12.0" in text


def test_one_run_is_no_trend_and_carries_no_plotly(bench: Bench) -> None:
    shown = page(bench, bench.result())

    assert "trend" not in shown.ids
    assert len(shown.html) < 0.1 * MEGABYTE


def test_several_runs_are_a_trend_with_what_was_new(bench: Bench) -> None:
    pytest.importorskip("plotly", reason="a trend needs plotly")
    shown = trend_page(bench, [bench.result(day=20)], [bench.result(day=21, slower=0.1)])

    assert "Trend over 2 runs" in shown.text
    assert "night-1 2026-11-21 10:00 NVIDIA H200 1 1 torch 2.11.0 -> 2.12.0" in shown.text


def test_runs_are_in_the_order_of_time_whatever_the_order_of_the_files(bench: Bench) -> None:
    pytest.importorskip("plotly", reason="a trend needs plotly")
    shown = trend_page(bench, [bench.result(day=21, slower=0.1)], [bench.result(day=20)])

    assert shown.text.index("night-1 2026-11-20") < shown.text.index("night-0 2026-11-21")
    assert "1 regressed" in shown.text


def test_the_packed_plotly_is_plotly(bench: Bench) -> None:
    pytest.importorskip("plotly", reason="a trend needs plotly")
    html = trend_page(bench, [bench.result(day=20)], [bench.result(day=21)]).html
    [packed] = re.findall(r'id="plotly">([A-Za-z0-9+/=]+)<', html)

    assert b"Plotly" in gzip.decompress(b64decode(packed))


def test_no_result_is_a_page_that_says_so(bench: Bench) -> None:
    assert "There is no result in the files." in page(bench).text


def test_the_command_writes_the_page(bench: Bench, write: Callable[..., Path], tmp_path: Path) -> None:
    target = tmp_path / "report.html"

    ran = CliRunner().invoke(app, ["report", str(write(bench.result())), "--html", str(target)])

    assert ran.exit_code == 0
    assert ran.stdout == ""
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_result_file_without_html_or_markdown_is_an_error_with_a_hint(write: Callable[..., Path]) -> None:
    path = write()
    ran = CliRunner().invoke(app, ["report", str(path)])

    assert ran.exit_code == 2
    assert f"{path}: to show results add --html FILE or --markdown" in ran.stderr


def test_a_page_that_cannot_be_written_is_an_error(bench: Bench, write: Callable[..., Path], tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["report", str(write(bench.result())), "--html", str(tmp_path)])

    assert ran.exit_code == 2
    assert f"{tmp_path}: cannot be written: Is a directory" in ran.stderr


def test_without_jinja2_the_command_says_what_to_install(bench: Bench, write: Callable[..., Path]) -> None:
    hidden = "import sys; sys.modules['jinja2'] = None; from pytest_llmbench.cli import main; main()"
    command = [sys.executable, "-c", hidden, "report", str(write(bench.result())), "--html", "never.html"]

    ran = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ran.returncode == 2
    assert "the HTML report needs jinja2; pip install 'pytest-llmbench[report]'" in ran.stderr


def test_a_metric_of_another_package_that_heads_rows_has_a_column(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "acme:watts"
    metric = Metric(
        name=name, unit="W", better="lower", gate="advisory", label="watts", heads_row=True, describe="Power."
    )
    monkeypatch.setitem(METRICS, name, metric)

    assert 'data-label="watts"' in page(bench, bench.result()).html
