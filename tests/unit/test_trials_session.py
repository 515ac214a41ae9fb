"""A comparison begun, gone on with and measured to its end, of this environment against itself."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import msgspec
import pytest

from measurements import good, measured
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.stack import CURRENT, Source
from pytest_llmbench.store.journal import Asked, Journal, Named, Taken
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.store.pair import Pair
from pytest_llmbench.tables.selection import Selected, SelectionError
from pytest_llmbench.trials.session import Started, _fitting, begin, go_on, measure_all
from pytest_llmbench.trials.trial import PAIRED
from surroundings import environment
from told import Told

WORKLOAD = Workload(scale="smoke", device="cpu")
CASES = (Selected("t", "one", Case(model="qwen-7b-chat")), Selected("t", "two", Case(model="qwen-14b-chat")))
ASKED = Asked(
    command="ab",
    a=Named(CURRENT, {}),
    b=Named(CURRENT, {}),
    source=Source(refresh=True),
    selected=CASES,
    workload=WORKLOAD,
    plan=PAIRED,
    timeout_seconds=1.0,
)


def pair(chosen: Selected) -> Pair:
    one = measured(
        good({"operators_per_sample": 100.0}),
        case=chosen.case,
        workload=WORKLOAD,
        environment=environment(device="cpu"),
    )
    return Pair(first="a", a=one, b=one)


@functools.cache
def begun() -> Started:
    """This environment is asked once for what it holds."""
    started = begin(Path(os.devnull), ASKED, Told())
    with started.journal:
        return started


def test_a_comparison_begins_with_what_both_environments_hold() -> None:
    started = begun()
    a, b = started.stacks

    assert (started.journal.asked.a, started.journal.asked.b) == (
        Named(CURRENT, a.packages, a.origins),
        Named(CURRENT, b.packages, b.origins),
    )
    assert "msgspec" in a.packages


def test_the_journal_begins_with_what_was_asked_for(tmp_path: Path) -> None:
    with begin(tmp_path / "journal.jsonl", ASKED, Told()).journal as journal:
        assert journal.asked.selected == CASES

    assert Journal.read(tmp_path / "journal.jsonl").asked == journal.asked


def test_an_environment_is_made_anew_once_and_not_when_the_comparison_goes_on() -> None:
    assert begun().journal.asked.source == Source(refresh=False)


def test_on_a_cpu_there_is_no_gpu_and_no_case_is_left_out() -> None:
    assert (begun().gpus, begun().left_out) == ((), ())


def test_a_comparison_goes_on_with_what_was_measured_and_takes_more(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with Journal.begin(file, begun().journal.asked) as journal:
        journal.add(Taken(case="t[one]", pair=pair(CASES[0])))

    started = go_on(file, Told())
    with started.journal as journal:
        journal.add(Taken(case="t[one]", pair=pair(CASES[0])))

    assert len(Journal.read(file).pairs("t[one]")) == 2
    assert (started.journal.asked, started.stacks, started.gpus) == (begun().journal.asked, begun().stacks, ())


@pytest.mark.parametrize(("side", "letter"), [("a", "A"), ("b", "B")])
def test_a_comparison_does_not_go_on_in_an_environment_that_has_changed(tmp_path: Path, side: str, letter: str) -> None:
    asked = begun().journal.asked
    packages = {**asked.a.packages, **{f"gone-{number}": "1" for number in range(7)}}
    file = tmp_path / "journal.jsonl"
    with Journal.begin(file, msgspec.structs.replace(asked, **{side: Named(CURRENT, packages)})):
        pass

    with pytest.raises(ResultError) as refused:
        go_on(file, Told())

    told = str(refused.value)
    assert told.startswith(f"{letter} (current) is no longer what was measured: gone-0")
    assert told.endswith("; start a new comparison")
    assert ("gone-4" in told, "gone-5" in told) == (True, False)


def test_what_was_measured_to_the_end_needs_no_environment() -> None:
    journal = Journal.begin(None, begun().journal.asked)
    for chosen in CASES:
        for _ in range(2):
            journal.add(Taken(case=chosen.name, pair=pair(chosen)))
    progress = Told()

    measure_all(Started(journal, begun().stacks, ()), progress)

    assert progress.total == 2
    assert progress.calls == [
        ("start", "t[one]"),
        ("end", "unchanged, 2 pairs"),
        ("start", "t[two]"),
        ("end", "unchanged, 2 pairs"),
    ]


def needing(num_gpus: int) -> Selected:
    return Selected("t", f"on-{num_gpus}", Case.custom("m:f", name="n", num_gpus=num_gpus))


def test_a_case_fits_as_many_gpus_as_it_needs_and_the_others_are_named() -> None:
    one, two, four = map(needing, (1, 2, 4))

    assert _fitting([one, two], 2) == ((one, two), ())
    assert _fitting([one, two], 1) == ((one,), ("1 row needs more GPUs than the 1 visible: t[on-2]",))
    assert _fitting([one, two, four], 1) == ((one,), ("2 rows need more GPUs than the 1 visible: t[on-2], t[on-4]",))


def test_on_a_cpu_every_case_fits() -> None:
    assert _fitting([needing(4)], None) == ((needing(4),), ())


def test_a_selection_of_which_nothing_fits_is_refused() -> None:
    with pytest.raises(SelectionError, match=r"1 row needs more GPUs than the 2 visible: t\[on-4\]"):
        _fitting([needing(4)], 2)
