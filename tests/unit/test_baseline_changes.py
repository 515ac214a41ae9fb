"""How two folders of baselines differ, as a review of the change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from measurements import good, measured
from pytest_llmbench.reports.changes import markdown_changes, render_changes, sentence_on, summary_of, to_json
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.metrics import Noise, Tolerance, Value
from pytest_llmbench.store.baseline import BaselineFile, BaselineRow, encode
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.changes import Changed, Changes, changes
from surroundings import environment

METRICS: dict[str, Value] = {"samples_per_second": 2.0, "kernels_per_sample": 100.0, "peak_reserved_bytes": (2**32,)}
Rows = dict[str, BaselineRow]
Review = Callable[[Rows, Rows], Changes]


def row(
    case: str = "a", *, at: str = "2026-11-24T10:00:00Z", because: str = "first", **metrics: Value | None
) -> BaselineRow:
    values = {name: value for name, value in {**METRICS, **metrics}.items() if value is not None}
    taken = measured(good(values), case=Case.custom("m:f", name=case), measured_at=at)
    return BaselineRow.of(taken, because=because)


def oom(**changes: str) -> BaselineRow:
    stored = row()
    process = msgspec.structs.replace(stored.processes[0], outcome="oom", reason="full", metrics={})
    return msgspec.structs.replace(stored, outcome="oom", reason="full", processes=(process,), **changes)


def write(root: Path, rows: Rows) -> BaselineStore:
    file = BaselineFile(table="speed")
    for name, stored in rows.items():
        file = file.with_row(name, stored, environment(packages={"torch": "2.11.0"}))
    (root / "gpu").mkdir(parents=True)
    (root / "gpu" / "speed.json").write_bytes(encode(file))
    return BaselineStore(root)


@pytest.fixture
def review(tmp_path: Path) -> Review:
    def between(before: Rows, after: Rows) -> Changes:
        sides = [write(tmp_path / name, rows) for name, rows in (("before", before), ("after", after))]
        return changes(sides[0], sides[1], names=("main", "the working tree"))

    return between


def only(found: Changes) -> Changed:
    [one] = found.rows
    return one


def test_equal_folders_differ_in_no_row(review: Review) -> None:
    found = review({"a": row()}, {"a": row()})

    assert found.rows == ()
    assert summary_of(found) == ["no row of the working tree differs from main"]
    assert list(sentence_on(found, command="c")) == []


def test_a_row_that_only_the_change_has_is_added(review: Review) -> None:
    assert only(review({"a": row()}, {"a": row(), "b": row("b")})).kind == "added"


def test_a_row_that_only_the_commit_has_is_removed(review: Review) -> None:
    found = only(review({"a": row(), "b": row("b")}, {"a": row()}))

    assert (found.kind, found.outcomes, found.reason) == ("removed", ("ok", None), "first")


def test_a_row_of_the_same_work_under_another_name_is_renamed(review: Review) -> None:
    found = only(review({"a": row()}, {"z": row()}))

    assert (found.kind, found.former, found.name) == ("renamed", "speed[a]", "speed[z]")


def test_a_renamed_row_of_other_values_shows_them(review: Review) -> None:
    found = only(review({"a": row()}, {"z": row(at="2026-12-01T10:00:00Z", kernels_per_sample=150.0)}))

    assert (found.kind, [one.metric for one in found.moved]) == ("renamed", ["kernels_per_sample"])


def test_two_rows_of_the_same_work_are_not_confused(review: Review) -> None:
    before = {"a": row(), "b": row(kernels_per_sample=90.0)}
    after = {"y": row(kernels_per_sample=90.0), "z": row()}

    assert {(one.former, one.name) for one in review(before, after).rows} == {
        ("speed[a]", "speed[z]"),
        ("speed[b]", "speed[y]"),
    }


def test_a_value_that_was_recorded_again_is_shown_with_its_change_reason_and_date(review: Review) -> None:
    again = row(at="2026-12-01T10:00:00Z", because="torch 2.12", peak_reserved_bytes=(5 * 2**30,))
    found = review({"a": row()}, {"a": again})

    text = render_changes(found, width=120, color=False)
    assert only(found).kind == "recorded"
    assert "GPU GiB" in text
    assert "+25.0 % worse" in text
    assert "speed[a]: recorded 2026-12-01T10:00:00Z: torch 2.12" in text


def test_a_value_under_the_date_of_before_was_edited_by_hand(review: Review) -> None:
    found = review({"a": row()}, {"a": row(kernels_per_sample=120.0)})

    assert only(found).kind == "edited"
    assert "edited by hand: speed[a]" in summary_of(found)


def test_an_outcome_that_became_oom_is_told(review: Review) -> None:
    found = review({"a": row()}, {"a": oom(recorded_at="2026-12-01T10:00:00Z")})

    assert only(found).outcomes == ("ok", "oom")
    assert "another outcome: speed[a]" in summary_of(found)


def test_a_metric_that_is_no_more_is_lost(review: Review) -> None:
    found = review({"a": row()}, {"a": row(kernels_per_sample=None)})

    assert only(found).lost == ("kernels_per_sample",)
    assert "metrics lost: speed[a]" in summary_of(found)


def test_a_tolerance_is_shown_before_and_after(review: Review) -> None:
    wide = msgspec.structs.replace(row(), tolerances={"peak_reserved_bytes": Tolerance(0.5, 2**20)})
    found = review({"a": row()}, {"a": wide})

    text = render_changes(found, width=120, color=False)
    assert only(found).kind == "changed"
    assert "tolerance of peak_reserved_bytes" in text
    assert "50.0 % or 1 MiB" in text


def test_noise_is_shown_before_and_after(review: Review) -> None:
    noise = Noise(process_sd=0.5, process_df=4, session_sd=0.25, session_df=4)
    noisy = msgspec.structs.replace(row(), noise={"samples_per_second": noise})

    text = render_changes(review({"a": row()}, {"a": noisy}), width=120, color=False)
    assert "50.0 % a process, 25.0 % a session" in text


def test_values_that_no_median_shows_are_told(review: Review) -> None:
    once, twice = row(), row(kernels_per_sample=500.0)
    three = msgspec.structs.replace(once, processes=once.processes * 3)
    edited = msgspec.structs.replace(once, processes=(*once.processes * 2, *twice.processes))

    text = render_changes(review({"a": three}, {"a": edited}), width=120, color=False)
    assert "values of single processes, or the profile" in text


def test_other_work_under_the_same_name_is_told(review: Review) -> None:
    found = only(review({"a": row()}, {"a": row("b")}))

    assert found.fields == {"case.model": ("a", "b")}


def test_a_file_that_cannot_be_read_is_told_and_all_others_are_compared(tmp_path: Path) -> None:
    before, after = write(tmp_path / "before", {"a": row()}), write(tmp_path / "after", {"a": row("b")})
    (tmp_path / "after" / "gpu" / "bad.json").write_text("{")

    found = changes(before, after, names=("main", "here"))

    assert len(found.rows) == 1
    assert "bad.json: is not whole JSON" in found.unreadable[0]
    assert any("bad.json" in sentence for sentence in sentence_on(found, command="c"))


def test_the_json_is_read_back_as_it_was(review: Review) -> None:
    found = review({"a": row(), "b": row("b")}, {"a": row(kernels_per_sample=120.0)})

    assert msgspec.json.decode(to_json(found), type=Changes, strict=True) == found


def test_markdown_takes_no_text_of_a_row_for_markdown(review: Review) -> None:
    text = markdown_changes(review({}, {"<b>|@team": row(because="[x](https://evil.example)\n\n# big")}))

    assert "<b>" not in text
    assert "@team" not in text
    assert "https://" not in text
    assert not any(line.startswith("# ") for line in text.splitlines())


def test_markdown_stays_within_its_room(review: Review) -> None:
    rows = {f"row-{number}": row(str(number)) for number in range(60)}

    text = markdown_changes(review({}, rows), max_characters=3000)

    assert len(text) <= 3000
    assert "Too long to show here: gpu/speed" in text
