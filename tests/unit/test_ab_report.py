"""What a comparison shows: packages, tables, sentences, and when a command fails."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from pytest_llmbench.judge.plan import DOUBTED
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict, Status
from pytest_llmbench.reports.comparison import markdown, render, summary, to_json
from pytest_llmbench.schema.environment import Software
from pytest_llmbench.trials.comparison import Compared, Comparison, FailOn, fails, package_diff

SPEED = MetricVerdict(
    metric="samples_per_second",
    status="unchanged",
    baseline=2.0,
    now=1.98,
    change=-0.01,
    interval=(-0.02, 0.001),
    gates=True,
    reason="r",
)
OPERATORS = MetricVerdict(
    metric="operators_per_sample", status="regressed", baseline=100, now=125, change=0.25, gates=True, reason="r"
)
LOSS = MetricVerdict(metric="loss_first", status="unchanged", baseline=2.0, now=2.0, change=0.0, gates=True, reason="r")


def row(name: str = "r", status: Status = "unchanged", table: str = "lora_rank", **changes: Any) -> Compared:
    verdict = RowVerdict(
        status=status,
        metrics=(SPEED, OPERATORS, LOSS) if status == "regressed" else (SPEED, LOSS),
        explanation="GPU work unchanged" if status == "regressed" else "",
        reason="regressed: operators_per_sample" if status == "regressed" else "2 metrics",
    )
    one = Compared(table=table, row=name, verdict=verdict, a="ok", b="ok", pairs=2)
    return msgspec.structs.replace(one, **changes)


def comparison(*rows: Compared, **changes: Any) -> Comparison:
    diff, same = package_diff(
        Software({"torch": "2.0", "peft": "0.17", "old": "1", "python": "3.11"}, {}),
        Software({"torch": "2.0", "peft": "0.21", "new": "1", "python": "3.11"}, {}),
    )
    one = Comparison(a="one.txt", b="two.txt", changes=diff, num_unchanged=same, rows=rows)
    return msgspec.structs.replace(one, **changes)


def shown(*rows: Compared) -> list[str]:
    return [line.rstrip() for line in render(comparison(*rows), width=110, color=False).splitlines()]


def test_packages_that_move_a_training_step_come_first() -> None:
    changes, same = package_diff(
        Software({"abc": "1", "peft": "1", "python": "3.11"}), Software({"abc": "2", "peft": "2", "python": "3.12"})
    )

    assert [str(change) for change in changes] == ["python 3.11 -> 3.12", "peft 1 -> 2", "abc 1 -> 2"]
    assert same == 0


def test_the_terminal_has_sides_and_packages_on_top() -> None:
    assert shown(row())[:8] == [
        "A  one.txt",
        "B  two.txt",
        "packages that differ:",
        "  peft 0.17 -> 0.21",
        "  only in A: old 1",
        "  only in B: new 1",
        "  (2 packages are the same)",
        "",
    ]


def test_a_row_shows_its_verdict_and_what_moved() -> None:
    lines = [line.split() for line in shown(row(status="regressed"))]

    assert ["r", "2", "pairs,", "3", "metrics", "regressed"] in lines
    assert ["samples/s", "2", "1.98", "-1.0", "%", "-2.0", "%", "to", "+0.1", "%", "unchanged"] in lines
    assert ["operators/sample", "100", "125", "+25.0", "%", "regressed"] in lines
    assert not any("loss_first" in line for line in lines)


def test_every_metric_is_shown_on_request() -> None:
    lines = render(comparison(row()), width=110, color=False, every_metric=True).splitlines()

    assert any("loss_first" in line for line in lines)


def test_a_row_without_a_verdict_tells_both_outcomes_and_why() -> None:
    lacking = RowVerdict(status="unmeasured", reason="unavailable in B: no bitsandbytes")
    text = "\n".join(shown(row(verdict=lacking, b="unavailable", pairs=1)))

    assert "1 pair, ok -> unavailable" in text
    assert "lora_rank[r]: unavailable in B: no bitsandbytes" in text
    assert "llmbench: 1 unavailable" in text


def test_rows_of_which_the_same_is_to_be_told_stand_together() -> None:
    assert any(
        line.startswith("lora_rank[a], lora_rank[b]: GPU work unchanged. regressed")
        for line in shown(row("a", "regressed"), row("b", "regressed"), row("c"))
    )


def test_an_overturned_suspicion_is_told() -> None:
    verdict = RowVerdict(status="unchanged", reason=f"2 metrics; {DOUBTED} regressed, 3 more pairs did not")

    assert any(DOUBTED in line for line in shown(row(verdict=verdict)))


def test_colours_only_where_they_are_wanted() -> None:
    assert "\x1b[" not in render(comparison(row()), width=80, color=False)
    assert "\x1b[" in render(comparison(row()), width=80, color=True)


def test_the_summary_counts_verdicts_and_averages_moves() -> None:
    assert summary([row("a"), row("b", "regressed")]) == [
        "1 regressed, 1 unchanged",
        "geometric mean over the rows: samples/s -1.0 %, operators +25.0 %",
    ]
    assert summary([]) == ["no case was measured"]


def test_a_move_that_all_rows_share_is_told() -> None:
    assert "20 rows moved together: samples/s -1.0 % (-1.0 % to -1.0 %)" in summary([row(str(n)) for n in range(20)])


@pytest.mark.parametrize(
    ("status", "failing"),
    [
        ("unchanged", ()),
        ("regressed", ("regressed", "moved", "undecided", "unmeasured", "inconclusive")),
        ("unmeasured", ("regressed", "moved", "undecided", "unmeasured", "inconclusive")),
        ("improved", ("moved",)),
        ("undecided", ("undecided", "inconclusive")),
        ("not comparable", ("unmeasured", "inconclusive")),
        ("no baseline", ("unmeasured", "inconclusive")),
    ],
)
def test_a_command_fails_on_what_it_is_told_to(status: Status, failing: tuple[str, ...]) -> None:
    one = comparison(row(verdict=RowVerdict(status=status, reason="r")))

    assert tuple(on for on in FailOn if fails(one, [on])) == failing
    assert not fails(one, [])


def test_a_row_that_one_side_lacks_has_no_verdict() -> None:
    one = comparison(row(), one_sided=("t[r]",))

    assert [on for on in FailOn if fails(one, [on])] == ["unmeasured", "inconclusive"]


def test_only_ok_and_out_of_memory_count_as_measured() -> None:
    assert row(a="ok", b="oom").is_measured
    assert not row(a="ok", b="crashed").is_measured


def test_markdown_has_packages_tables_and_stories() -> None:
    text = markdown(comparison(row(status="regressed"), left_out=("3 rows need more GPUs",)))

    assert text.startswith("**A** `one.txt` against **B** `two.txt`\n")
    for line in (
        "- 1 regressed",
        "- 3 rows need more GPUs",
        "| peft | 0.17 | 0.21 |",
        "- only in A: old 1",
        "### LoRA Rank & LoRA Target Modules",
        "|  | operators/sample | 100 | 125 | +25.0 % |  | regressed |",
        "- `lora_rank[r]`: GPU work unchanged. regressed: operators_per_sample",
    ):
        assert line in text.splitlines()


def test_markdown_takes_any_reason() -> None:
    verdict = RowVerdict(status="unmeasured", reason="crashed:\n a | b <module>")

    assert "crashed: a \\| b &lt;module>" in markdown(comparison(row(verdict=verdict)))


def test_json_has_every_verdict() -> None:
    document = json.loads(to_json(comparison(row(status="regressed"))))

    assert document["format"] == 1
    assert document["package_changes"][0] == {"name": "peft", "before": "0.17", "after": "0.21"}
    (only,) = document["rows"]
    assert (only["table"], only["row"], only["status"], only["pairs"]) == ("lora_rank", "r", "regressed", 2)
    assert [metric["change"] for metric in only["metrics"]] == [-0.01, 0.25, 0.0]
