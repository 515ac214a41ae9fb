"""The file of a comparison: written line by line, read after any kind of end."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pytest_llmbench.judge.plan import Plan
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import failed
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.stack import Source
from pytest_llmbench.store.journal import Asked, Implied, Journal, Named, Note, Taken
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.store.pair import Pair
from pytest_llmbench.tables.selection import Selected

CASE = Case.custom("m:f", name="r")
ASKED = Asked(
    command="ab",
    a=Named("/old", {"torch": "1"}),
    b=Named("/new", {"torch": "2"}),
    source=Source(base="/base", constraints=("/c.txt",)),
    selected=(Selected("t", "r", CASE),),
    workload=Workload(),
    plan=Plan(screen=2, max_processes=8, looks=2),
    tolerances={"samples_per_second": Tolerance(0.1)},
    path=("/steps",),
    timeout_seconds=5.0,
)
TAKEN = Taken(
    case="t[r]",
    pair=Pair(
        first="b",
        a=failed(CASE, Workload(), "oom", "r", measured_at="now"),
        b=failed(CASE, Workload(), "oom", "r", measured_at="now"),
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """One pair."""
    path = tmp_path / "deep" / "ab.jsonl"
    with Journal.begin(path, ASKED) as journal:
        journal.add(TAKEN)
    return path


def test_what_was_asked_and_taken_is_read_back(path: Path) -> None:
    with Journal.resume(path) as journal:
        assert journal.asked == ASKED
        assert journal.pairs("t[r]") == [TAKEN.pair]
        assert journal.pairs("t[other]") == []


def test_a_resumed_file_goes_on_where_it_ended(path: Path) -> None:
    for _ in range(2):
        with Journal.resume(path) as journal:
            journal.add(TAKEN)
    with Journal.resume(path) as journal:
        assert len(journal.pairs("t[r]")) == 3


def test_half_a_line_of_a_killed_run_is_cut_off(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + msgspec.json.encode(TAKEN)[:100])
    with Journal.resume(path) as journal:
        assert len(journal.pairs("t[r]")) == 1
        journal.add(TAKEN)
    assert path.read_bytes() == whole + msgspec.json.encode(TAKEN) + b"\n"


def test_notes_and_implications_are_read_back(path: Path) -> None:
    together = Implied(implied={"peft": frozenset({"peft", "torch"})}, needs={"peft": frozenset({"torch"})})
    with Journal.resume(path) as journal:
        assert journal.implied is None
        journal.add(Note(case="peft", why="cannot be installed"))
        journal.add(together)
    with Journal.resume(path) as journal:
        assert journal.note("peft") == "cannot be installed"
        assert journal.note("torch") is None
        assert journal.implied == together


def test_a_file_that_is_there_is_not_written_over(path: Path) -> None:
    with pytest.raises(ResultError, match="is there already; go on with --resume"):
        Journal.begin(path, ASKED)


def test_two_runs_do_not_write_to_one_file(path: Path) -> None:
    with Journal.resume(path), pytest.raises(ResultError, match="another run is writing"):
        Journal.resume(path)


def test_a_file_of_something_else_is_refused_with_its_line(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"format":1,"nodeid":"t.py::test"}\n')
    with pytest.raises(ResultError, match=r"other.jsonl, line 1: is not of llmbench ab"):
        Journal.resume(other)
    other.write_text("")
    with pytest.raises(ResultError, match="does not begin"):
        Journal.resume(other)
    with pytest.raises(ResultError, match="cannot be read"):
        Journal.resume(tmp_path / "missing")


def test_a_line_of_rubbish_is_refused_with_its_number(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b'{"kind":"pair","case":1}\n')
    with pytest.raises(ResultError, match="line 3"):
        Journal.resume(path)


@pytest.mark.parametrize(
    ("line", "field", "told"),
    [
        (ASKED, "selected", r"line 1: .* Expected `array` of length >= 1 - at `\$\.selected`"),
        (TAKEN, "processes", r"line 2: .* Expected `array` of length >= 1 - at `\$\.pair\.a\.processes`"),
    ],
)
def test_a_line_without_what_it_must_have_is_refused_with_its_field(
    tmp_path: Path, line: Asked | Taken, field: str, told: str
) -> None:
    edited = msgspec.to_builtins(line)
    (edited if line is ASKED else edited["pair"]["a"])[field] = []
    path = tmp_path / "edited.jsonl"
    path.write_bytes(
        (b"" if line is ASKED else msgspec.json.encode(ASKED) + b"\n") + msgspec.json.encode(edited) + b"\n"
    )

    with pytest.raises(ResultError, match=told):
        Journal.read(path)


def test_a_number_of_more_than_64_bits_is_refused_with_its_field(path: Path) -> None:
    edited = msgspec.to_builtins(TAKEN)
    edited["pair"]["b"]["processes"][0]["neighbours"] = 10**25
    path.write_bytes(msgspec.json.encode(ASKED) + b"\n" + msgspec.json.encode(edited) + b"\n")

    with pytest.raises(ResultError, match=r"line 2: .*pair\.b\.processes\[0\]\.neighbours is a number of more than 64"):
        Journal.read(path)


def test_a_file_that_never_ends_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").symlink_to("/proc/kmsg")

    with pytest.raises(ResultError, match="results cannot be read: it is not a file of a disk but /proc/kmsg"):
        Journal.read(tmp_path / "r.jsonl")


def test_without_a_file_pairs_are_kept_in_memory() -> None:
    with Journal.begin(None, ASKED) as journal:
        journal.add(TAKEN)
        assert len(journal.pairs("t[r]")) == 1


def test_a_disk_that_takes_no_more_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="could not be written"):
        Journal.begin(Path("/dev/full"), ASKED)
