"""The HTML page in a real browser: it opens fast, filters, sorts, opens rows, and works by keyboard and on a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

from pytest_llmbench.store.results import Result

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install playwright")
for _needed in ("jinja2", "plotly"):
    pytest.importorskip(_needed, reason=f"the page needs {_needed}: pip install 'pytest-llmbench[report]'")

from playwright.sync_api import Browser, Dialog, Page, ViewportSize, expect  # noqa: E402

from pytest_llmbench.reports.html import ResultFile, html_report  # noqa: E402

if TYPE_CHECKING:
    from tests.reports.conftest import Bench

pytestmark = pytest.mark.xdist_group("browser")

DESKTOP = ViewportSize(width=1280, height=900)
PHONE = ViewportSize(width=390, height=844)


def _installed() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("LLMBENCH_TEST_BROWSER") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Browser]:
    executable = _installed()
    with sync_api.sync_playwright() as playwright:
        if executable is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium here: apt-get install chromium, or playwright install chromium")
        # Without its sandbox it also starts as root, as CI jobs in containers are.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page of the browser, and whatever went wrong or left the machine since it was opened."""

    def __init__(self, browser: Browser, path: Path, viewport: ViewportSize, place: str = "") -> None:
        self.troubles: list[str] = []
        self.page: Page = browser.new_page(viewport=viewport)
        self.page.on("pageerror", lambda error: self._tell(str(error)))
        self.page.on("console", lambda said: self._tell(said.text) if said.type == "error" else None)
        self.page.on("dialog", self._refuse)
        self.page.on("request", lambda asked: self._ask(asked.url))
        self.page.goto(f"{path.as_uri()}{place}")

    def _tell(self, trouble: str) -> None:
        self.troubles.append(trouble)

    def _refuse(self, dialog: Dialog) -> None:
        self._tell(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _ask(self, address: str) -> None:
        if not address.startswith(("file:", "blob:", "data:")):
            self._tell(f"asked for {address}")


Opening = Callable[..., Opened]


@pytest.fixture(name="opened")
def _opened(browser: Browser, tmp_path: Path) -> Iterator[Opening]:
    """Opens a page; the test fails if anything went wrong on it."""
    pages: list[Opened] = []

    def opened(html: str, viewport: ViewportSize = DESKTOP, place: str = "") -> Opened:
        path = tmp_path / "report.html"
        path.write_text(html, encoding="utf-8")
        pages.append(Opened(browser, path, viewport, place))
        return pages[-1]

    yield opened
    for one in pages:
        one.page.close()
        assert one.troubles == []


def small(bench: Bench, *results: Result) -> str:
    return html_report([ResultFile("run", results)], store=bench.store, published={})


def test_what_is_known_of_96_rows_is_mere_text_until_a_row_is_opened(whole_html: str, opened: Opening) -> None:
    """So that a page of any length opens at once."""
    page = opened(whole_html).page
    assert page.locator("tr.detail").count() >= 90
    assert page.locator("tr.detail .inside").count() == 0

    page.locator(".open").first.click()

    assert page.locator("tr.detail .inside").count() == 1


def test_a_click_on_a_row_shows_its_processes(bench: Bench, opened: Opening) -> None:
    page = opened(small(bench, bench.result(slower=0.1))).page
    expect(page.get_by_text("Processes", exact=False).first).to_be_hidden()

    page.locator(".open").click()

    expect(page.get_by_role("heading", name="Processes")).to_be_visible()
    expect(page.get_by_text("gemm bf16").last).to_be_visible()


def test_a_row_opens_by_keyboard(bench: Bench, opened: Opening) -> None:
    page = opened(small(bench, bench.result())).page
    button = page.locator(".open")

    button.focus()
    page.keyboard.press("Enter")

    assert button.get_attribute("aria-expanded") == "true"
    expect(page.get_by_role("heading", name="Processes")).to_be_visible()


def test_text_filters_rows(whole_html: str, opened: Opening) -> None:
    page = opened(whole_html).page

    page.keyboard.press("/")
    page.keyboard.type("14b gptq")

    expect(page.locator("tbody.row:visible")).to_have_count(2)
    expect(page.locator("section.table:visible .tally")).to_have_text("2 of 12 rows")


def test_a_filter_that_nothing_passes_says_so(bench: Bench, opened: Opening) -> None:
    page = opened(small(bench, bench.result())).page

    page.get_by_role("searchbox").fill("no such row")

    expect(page.get_by_text("No row matches the filter.")).to_be_visible()


def test_a_status_is_hidden_and_shown_by_its_button(bench: Bench, opened: Opening) -> None:
    page = opened(small(bench, bench.result(row="a"), bench.result(row="b", slower=0.1))).page

    page.get_by_role("button", name="unchanged").click()
    expect(page.locator("tbody.row:visible")).to_have_count(1)

    page.get_by_role("button", name="unchanged").click()
    expect(page.locator("tbody.row:visible")).to_have_count(2)


def test_a_header_sorts_by_number_and_then_the_other_way(bench: Bench, opened: Opening) -> None:
    results = [bench.result(row=row, speed=speed) for row, speed in (("a", 9.5), ("b", 10.0), ("c", 2.0))]
    page = opened(small(bench, *results)).page
    header = page.get_by_role("button", name="samples/s")

    header.click()
    assert page.locator("tbody.row .open").all_inner_texts() == ["c", "a", "b"]
    header.click()
    assert page.locator("tbody.row .open").all_inner_texts() == ["b", "a", "c"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_an_address_with_a_row_opens_it(bench: Bench, opened: Opening) -> None:
    html = small(bench, bench.result(row="a"), bench.result(row="b", slower=0.1))
    page = opened(html, place="#speed/b").page

    expect(page.locator("tr.detail:visible")).to_have_count(1)
    assert page.locator(".open[aria-expanded=true]").inner_text() == "b"


def test_a_link_to_a_failed_row_opens_it_although_it_is_filtered_out(bench: Bench, opened: Opening) -> None:
    page = opened(small(bench, bench.result(row="b", slower=0.1))).page
    page.get_by_role("searchbox").fill("something else")

    page.locator(".failures a").click()

    expect(page.locator("tr.detail:visible")).to_have_count(1)


def test_a_test_id_with_a_script_stays_text(bench: Bench, opened: Opening) -> None:
    html = small(bench, bench.result(row="<script>alert(1)</script><img src=x onerror=alert(2)>", slower=0.1))
    page = opened(html).page

    expect(page.locator(".failures").get_by_role("link", name="<script>alert(1)</script>")).to_be_visible()
    page.locator(".open").click()
    expect(page.locator(".detail").get_by_text("<script>alert(1)</script>").first).to_be_visible()
    assert page.locator("img").count() == 0


def test_a_script_in_the_data_of_the_trend_stays_data(bench: Bench, opened: Opening) -> None:
    row = "</script><script>alert(1)</script>"
    runs = [ResultFile(f"<b>{day}</b>", (bench.result(row=row, day=day),)) for day in (23, 24)]
    page = opened(html_report(runs, store=bench.store, published={})).page

    page.get_by_text("Interactive chart").click()

    expect(page.locator("#chart[data-drawn=yes]")).to_be_visible(timeout=20_000)


def test_the_trend_is_drawn_once_it_is_opened(whole_html: str, opened: Opening) -> None:
    page = opened(whole_html).page
    assert page.evaluate("typeof Plotly") == "undefined"

    page.get_by_text("Interactive chart").click()
    page.locator("#chart[data-drawn=yes]").wait_for(timeout=20_000)
    assert page.locator("#plot .scatterlayer .trace").count() == 12

    page.locator("#trend-row").select_option(index=1)
    expect(page.locator("#plot .scatterlayer .trace")).to_have_count(1)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen(whole_html: str, opened: Opening, viewport: ViewportSize) -> None:
    page = opened(whole_html, viewport).page
    page.locator("tbody.row[data-status=regressed] .open").first.click()

    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


_BARS = """
() => [...document.querySelectorAll("tbody.row:not([hidden])")].flatMap((row) => {
  const columns = [...row.querySelectorAll("td.bars")].map((cell, at) => [`${row.closest("section").id}-${at}`, cell]);
  const kernels = [...row.querySelectorAll(".kernels")].map((list) => [`${row.id}-kernels`, list]);
  return [...columns, ...kernels].flatMap(([scale, place]) => [...place.querySelectorAll(".bar")].map((bar) => {
    const [mark, label] = [bar.querySelector("i"), bar.querySelector("b")];
    const text = document.createRange();
    text.selectNodeContents(label);
    text.setStartAfter(label.querySelector(".sr"));
    const box = text.getBoundingClientRect();
    return {
      scale, text: text.toString(),
      width: mark === null ? 0 : mark.getBoundingClientRect().width,
      end: mark === null ? -1 : mark.getBoundingClientRect().right,
      left: box.left, right: box.right, edge: place.getBoundingClientRect().right,
    };
  }));
})
"""
"""Every bar: of which scale it is, its length and its end, and where the text beside it lies."""


class DrawnBar(NamedTuple):
    scale: str
    number: float
    width: float
    overlaps: bool
    cut: bool


def drawn_bars(page: Page) -> list[DrawnBar]:
    """The bars of all rows, and of the kernels of one row that is open."""
    page.locator("tbody.row[data-status=regressed] .open").first.click()
    return [
        DrawnBar(
            scale=bar["scale"],
            number=sum(map(float, bar["text"].replace(",", "").split("+"))) if bar["text"][-1:].isdigit() else 0.0,
            width=bar["width"],
            overlaps=bar["left"] < bar["end"],
            cut=bar["right"] > bar["edge"] + 0.5,
        )
        for bar in page.evaluate(_BARS)
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 1100, 390])
def test_bars_are_as_long_as_their_numbers(
    whole_html: str, opened: Opening, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = opened(whole_html, ViewportSize(width=width, height=900)).page
    page.emulate_media(color_scheme=scheme)
    bars = drawn_bars(page)

    longest: dict[str, DrawnBar] = {}
    for bar in bars:
        longest[bar.scale] = max(bar, longest.get(bar.scale, bar), key=lambda one: one.number)
    wrong = [
        (bar, expected)
        for bar in bars
        if abs(bar.width - (expected := bar.number / longest[bar.scale].number * longest[bar.scale].width)) > 1
    ]
    assert len(bars) > 700
    assert min(one.width for one in longest.values()) > 30
    assert wrong == []


@pytest.mark.parametrize("width", [1400, 1100, 390])
def test_the_number_of_a_bar_stands_beside_it_and_whole(whole_html: str, opened: Opening, width: int) -> None:
    page = opened(whole_html, ViewportSize(width=width, height=900)).page

    assert [bar for bar in drawn_bars(page) if bar.overlaps or bar.cut] == []


def test_without_scripts_everything_is_there(bench: Bench, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(small(bench, bench.result(slower=0.1)), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())

    expect(page.get_by_role("heading", name="Processes")).to_be_visible()
    context.close()
