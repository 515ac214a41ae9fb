"""Tables as text: what fits where, and in which colours."""

from __future__ import annotations

import msgspec
import pytest

from pytest_llmbench.reports.table import Line, ReportTable
from pytest_llmbench.reports.terminal import render

ESCAPE = "\x1b["


def line(*row: str, metric: str = "samples/s", verdict: str = "regressed") -> Line:
    return Line(
        row=row,
        metric=metric,
        baseline="62.00+33.00",
        now="77.50+41.25",
        change="+25.0 %",
        limit="±2.0 %",
        verdict=verdict,
    )


TABLE = ReportTable(
    name="quantization",
    title="Quantization",
    columns=("Model", "Quantization", "GPUs"),
    lines=(
        Line(
            row=("openbuddy-zephyr-7b-chat", "gptq-int4", "2"),
            metric="6 metrics",
            verdict="regressed",
        ),
        line("", "", ""),
        line("", "", "", metric="operators/sample"),
        Line(row=("qwen-7b-chat", "bf16", "1"), metric="oom", verdict="not comparable"),
    ),
)


def rendered(width: int, *, color: bool = False) -> list[str]:
    return render([TABLE], width=width, color=color).splitlines()


def test_on_a_wide_terminal_each_input_has_a_column() -> None:
    lines = rendered(200)

    assert lines[0] == "Quantization"
    assert lines[1].split() == [
        "Model",
        "Quantization",
        "GPUs",
        "metric",
        "baseline",
        "now",
        "change",
        "limit",
        "verdict",
    ]
    assert lines[3].split() == ["openbuddy-zephyr-7b-chat", "gptq-int4", "2", "6", "metrics", "regressed"]
    assert lines[4].split() == ["samples/s", "62.00+33.00", "77.50+41.25", "+25.0", "%", "±2.0", "%", "regressed"]
    assert len(lines) == 7


def test_on_a_narrow_terminal_the_inputs_stand_above_the_metrics() -> None:
    lines = rendered(80)

    assert [text.split() for text in lines if "samples/s" in text] == [
        ["samples/s", "62.00+33.00", "77.50+41.25", "+25.0", "%", "±2.0", "%", "regressed"]
    ]
    assert any(text.startswith("  oom") and "comparable" in " ".join(lines) for text in lines)
    assert any(text == "qwen-7b-chat, bf16, 1" for text in lines)


def test_on_a_narrow_terminal_a_long_name_has_the_whole_line() -> None:
    name = "a-model-with-a-long-name-full-no-checkpointing-1024"
    table = ReportTable(name="t", title="T", columns=("Row",), lines=(line(name), line("")))

    assert name in render([table], width=70, color=False).splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, rendered(width))) <= width


@pytest.mark.parametrize("width", [80, 120, 200])
def test_nothing_is_cut_off(width: int) -> None:
    text = "\n".join(rendered(width))

    assert text.count("regressed") == 3
    assert "…" not in text
    for word in ("baseline", "now", "change", "limit", "verdict", "operators/sample", "gptq-int4"):
        assert word in text


def test_headers_wrap_between_words() -> None:
    table = ReportTable(name="a", title="A", columns=("Gradient Accumulation Steps",), lines=(line("16"),))

    lines = render([table], width=120, color=False).splitlines()

    assert [lines[1].strip(), lines[2].strip()] == ["Gradient", "Accumulation"]
    assert lines[3].startswith("Steps ")


def test_no_line_ends_in_blanks() -> None:
    assert all(text == text.rstrip() for text in rendered(120))


def test_tables_are_apart() -> None:
    text = render([TABLE, TABLE], width=120, color=False)

    assert text.count("\n\nQuantization\n") == 1


def test_colour_is_given_only_where_it_is_asked_for() -> None:
    assert any(f"{ESCAPE}1;31m" in text for text in rendered(120, color=True))
    assert not any(ESCAPE in text for text in rendered(120))


@pytest.mark.parametrize("verdict", ["advisory", "no baseline", "recorded", "skipped"])
def test_what_is_not_judged_is_grey(verdict: str) -> None:
    shown = render([msgspec.structs.replace(TABLE, lines=(line("a", verdict=verdict),))], width=200, color=True)

    assert f"{ESCAPE}2m{verdict}" in shown


def test_what_is_within_its_limit_is_green() -> None:
    shown = render([msgspec.structs.replace(TABLE, lines=(line("a", verdict="unchanged"),))], width=200, color=True)

    assert f"{ESCAPE}32munchanged" in shown


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    table = ReportTable(name="a", title="[bold]A[/bold]", columns=("Row",), lines=(line("[red]x[/red] :smile:"),))

    text = render([table], width=200, color=False)

    assert "[bold]A[/bold]" in text
    assert "[red]x[/red] :smile:" in text


def test_nothing_is_nothing() -> None:
    assert render([], width=80, color=True) == ""


@pytest.mark.parametrize(("verdict", "code"), [("undecided", "33"), ("unmeasured", "31"), ("unavailable", "31")])
def test_what_fails_is_red_and_what_noise_leaves_open_yellow(verdict: str, code: str) -> None:
    table = ReportTable(name="t", title="T", columns=("Row",), lines=(line("r", verdict=verdict),))

    assert f"\x1b[{code}m{verdict}" in render([table], width=100, color=True)
