"""Files from outside, in whatever state: an error in a sentence, and the file as it was."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import surroundings
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process, Round
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.schema.text import printable
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store import baseline as file_module
from pytest_llmbench.store.baseline import BaselineError
from pytest_llmbench.store.baselines import BaselineStore, folder_name
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.store.published import PublishedError, load_published
from pytest_llmbench.store.results import Result, ResultLog, UnwritableResult, read_results

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""A machine shared with other work is no fault of the code, and each example writes its own file."""

MIB = 2**20
PUBLISHED = Path(__file__).parents[2] / "baselines"
ENVIRONMENT = surroundings.environment(device="Test GPU", python="3", packages={"torch": "2.11.0"})


def a_measurement(**changes: Any) -> Measurement:
    default = Measurement(
        case=Case(model="qwen-7b-chat"),
        workload=Workload(),
        environment=ENVIRONMENT,
        processes=(Process(outcome="ok", metrics={"samples_per_second": 3.09}),),
        measured_at="2026-11-24T10:00:00Z",
    )
    return msgspec.structs.replace(default, **changes)


def a_result(**changes: Any) -> Result:
    default = Result(
        nodeid="test_rows.py::test_speed[a]",
        table="speed",
        row="a",
        measurement=a_measurement(),
        verdict=RowVerdict(status="unchanged", reason="1 metrics within their limits"),
        decision="pass",
        message="",
        seconds=1.5,
    )
    return msgspec.structs.replace(default, **changes)


LINE = msgspec.json.encode(a_result()) + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The baseline file of table `speed`, which holds row `a`."""
    return BaselineStore(tmp_path / "baselines").record("speed", "a", a_measurement(), "first")


def new_store(path: Path) -> BaselineStore:
    return BaselineStore(path.parent.parent)


def assert_left_alone(path: Path, data: bytes) -> None:
    """Whoever reads or changes the file meets a `BaselineError` at most, and *data* stays if so."""
    store = new_store(path)
    with suppress(BaselineError):
        store.find(a_measurement(), "speed", "a")
    assert path.read_bytes() == data
    try:
        store.record("speed", "b", a_measurement(), "again")
    except BaselineError:
        assert path.read_bytes() == data
    assert sorted(each.name for each in path.parent.iterdir()) == ["speed.json"]


@unhurried
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_neither_crash_the_store_nor_are_changed(path: Path, data: bytes) -> None:
    path.write_bytes(data)

    with pytest.raises(BaselineError):
        new_store(path).find(a_measurement(), "speed", "a")
    assert_left_alone(path, data)


@unhurried
@given(start=st.integers(0, 2000), length=st.integers(0, 40), inserted=st.binary(max_size=20))
def test_a_baseline_with_a_piece_exchanged_is_read_or_refused_and_not_lost(
    path: Path, start: int, length: int, inserted: bytes
) -> None:
    path.unlink(missing_ok=True)
    whole = new_store(path).record("speed", "a", a_measurement(), "first").read_bytes()
    start %= len(whole)
    damaged = whole[:start] + inserted + whole[start + length :]
    path.write_bytes(damaged)

    assert_left_alone(path, damaged)


@unhurried
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_neither_crash_the_reader_of_results_nor_are_changed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(LINE + data)

    with suppress(ResultError):
        assert read_results(path)[0] == a_result()
    assert path.read_bytes() == LINE + data


@unhurried
@given(start=st.integers(0, len(LINE)), length=st.integers(0, 40), inserted=st.binary(max_size=20))
def test_a_result_with_a_piece_exchanged_is_read_or_refused(
    tmp_path: Path, start: int, length: int, inserted: bytes
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(LINE + LINE[:start] + inserted + LINE[start + length :] + LINE)

    with suppress(ResultError):
        read_results(path)


texts = st.text(max_size=20).map(lambda text: printable(text, lines=False))
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**62)
processes = st.builds(
    Process,
    outcome=st.sampled_from(("ok", "oom", "crashed", "timeout", "diverged", "unavailable", "invalid")),
    reason=st.none() | texts,
    metrics=st.dictionaries(st.sampled_from(tuple(METRICS)), counts | numbers | st.tuples(counts, counts), max_size=3),
    missing=st.dictionaries(texts, texts, max_size=2),
    rounds=st.lists(st.builds(Round, seconds=numbers, samples=counts, tokens=counts), max_size=2).map(tuple),
    ran=st.dictionaries(texts, texts, max_size=2),
    phase_seconds=st.dictionaries(texts, numbers, max_size=2),
)
results = st.builds(
    Result,
    nodeid=texts,
    table=texts,
    row=texts,
    measurement=st.builds(
        Measurement,
        case=st.builds(Case, model=st.sampled_from(("qwen-7b-chat", "yi-6b-chat")), max_length=st.integers(1, 10**9)),
        workload=st.builds(Workload, samples=st.integers(1, 10**4) | st.just("full")),
        environment=st.none() | st.just(ENVIRONMENT),
        processes=st.lists(processes, min_size=1, max_size=2).map(tuple),
        measured_at=texts,
    ),
    verdict=st.builds(RowVerdict, status=st.sampled_from(("unchanged", "regressed", "no baseline")), reason=texts),
    decision=st.sampled_from(("pass", "fail", "skip")),
    message=texts,
    recorded=st.booleans(),
    seconds=st.floats(0, 1e9),
)


@unhurried
@given(written=st.lists(results, max_size=3))
def test_every_result_comes_back_as_it_was(tmp_path: Path, written: list[Result]) -> None:
    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    log = ResultLog(path)
    for result in written:
        log.append(result)

    assert read_results(path) == tuple(written)
    log.close()


wild = st.one_of(
    st.builds(Round, seconds=st.floats(), samples=st.integers(), tokens=st.integers(-(2**70), 2**70)),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.lists(st.integers(-(2**70), 2**70), max_size=2).map(tuple),
    st.text(st.characters(), max_size=5),
)
"""Whatever a measuring process may come to: numbers that are none, that are too long, text that is not Unicode."""


@unhurried
@given(values=st.lists(wild, max_size=4))
def test_whatever_is_written_is_read(tmp_path: Path, values: list[Any]) -> None:
    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    log = ResultLog(path)
    written = 0
    for value in values:
        process = Process(outcome="ok", metrics={"loss_first": 1.0})
        if isinstance(value, Round):
            process = msgspec.structs.replace(process, rounds=(value,))
        elif isinstance(value, str):
            process = msgspec.structs.replace(process, ran={"dtype": value})
        else:
            process = msgspec.structs.replace(process, metrics={"loss_first": value})
        with suppress(UnwritableResult):
            log.append(a_result(measurement=a_measurement(processes=(process,))))
            written += 1
    log.append(a_result(row="last"))
    log.close()

    assert len(read_results(path)) == written + 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"format":1,"verdict":' + b"[" * 200_000, "is not a result"),
        (b'{"novel":' + b'{"a":' * 200_000, "is not a result"),
        (b'{"format":9,"novel":' + b"[" * 200_000, "is not a result"),
        (LINE.rstrip().replace(b"3.09", b"1" * 400), "is not a result"),
        (LINE.rstrip().replace(b"3.09", b"1e999"), "is not a result"),
        (LINE.rstrip().replace(b"3.09", b"Infinity"), "is not a result"),
        (LINE.rstrip().replace(b"3.09", b"null"), "is not a result"),
        (LINE.rstrip().replace(b'"torch"', b'"\xff"'), "is not a result"),
        (LINE.rstrip().replace(b'"format":1', b'"format":"1"'), "is not a result"),
    ],
    ids=lambda value: value[:30].decode(errors="replace") if isinstance(value, bytes) else None,
)
def test_a_line_of_results_that_is_hostile_is_named(tmp_path: Path, line: bytes, told: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(LINE + line + b"\n")

    with pytest.raises(ResultError, match=rf"r\.jsonl, line 2: {told}"):
        read_results(path)


def test_a_key_that_comes_twice_in_a_result_counts_as_its_last(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(LINE.replace(b'"row":"a"', b'"row":"a","row":"b"'))

    assert [result.row for result in read_results(path)] == ["b"]


def test_a_baseline_of_100_mb_is_refused_unread(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(100 * MIB)

    with pytest.raises(BaselineError, match="it has 100 MiB, and no such file has more than 64 MiB"):
        new_store(path).find(a_measurement(), "speed", "a")
    assert path.stat().st_size == 100 * MIB


def test_a_baseline_of_millions_of_values_is_refused_before_it_is_parsed(path: Path) -> None:
    path.write_bytes(b"[" + b"[]," * file_module.MOST_VALUES + b"[],,,")  # which no parser takes

    with pytest.raises(BaselineError, match="has more than 1000000 values, and no baseline has; restore the file"):
        new_store(path).find(a_measurement(), "speed", "a")


def test_a_baseline_that_would_not_be_read_again_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(file_module, "MOST_VALUES", before.count(b","))

    with pytest.raises(BaselineError, match="would become larger than what is read; spread its tests over more tables"):
        new_store(path).record("speed", "b", a_measurement(), "again")
    assert path.read_bytes() == before


def test_results_of_more_than_the_limit_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with path.open("wb") as stream:
        stream.truncate(1024 * MIB)

    with pytest.raises(
        ResultError, match=r"results cannot be read: it has 1\.00 GiB, and no such file has more than 512"
    ):
        read_results(path)


def test_100_mb_that_are_no_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with path.open("wb") as stream:
        stream.truncate(100 * MIB)

    with pytest.raises(ResultError, match="line 1: is not a result"):
        read_results(path)


@pytest.fixture(params=["endless", "pipe", "kernel"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What can be opened and read from, and is no file."""
    made = tmp_path / "no-file"
    if request.param == "endless":
        made.symlink_to("/dev/zero")
    elif request.param == "kernel":  # a file like any other by its kind, of which no read returns
        made.symlink_to("/proc/kmsg")
    else:
        os.mkfifo(made)
    return made


def test_a_baseline_that_is_no_file_is_refused(path: Path, no_file: Path) -> None:
    path.unlink()
    no_file.rename(path)

    with pytest.raises(BaselineError, match="cannot be read: it is not a file"):
        new_store(path).find(a_measurement(), "speed", "a")
    with pytest.raises(BaselineError, match="cannot be read: it is not a file"):
        new_store(path).record("speed", "a", a_measurement(), "again")


def test_results_that_are_no_file_are_refused(no_file: Path) -> None:
    with pytest.raises(ResultError, match="results cannot be read: it is not a file"):
        read_results(no_file)


def test_a_link_in_the_place_of_the_file_to_be_written_leads_nowhere(path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    path.with_name(".speed.json.new").symlink_to(precious)

    new_store(path).record("speed", "b", a_measurement(), "again")

    assert precious.read_text() == "mine"
    assert [each.name for each in path.parent.iterdir()] == ["speed.json"]


def test_a_link_in_the_place_of_the_lock_is_refused(path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (path.parent.parent / ".lock").unlink()
    (path.parent.parent / ".lock").symlink_to(precious)

    with pytest.raises(BaselineError, match=r"\.lock: is a symbolic link"):
        new_store(path).record("speed", "b", a_measurement(), "again")
    assert precious.read_text() == "mine"


def test_a_baseline_that_is_a_link_is_read_and_replaced_by_a_file(path: Path, tmp_path: Path) -> None:
    shared = path.rename(tmp_path / "shared.json")
    before = shared.read_bytes()
    path.symlink_to(shared)
    store = new_store(path)

    assert store.find(a_measurement(), "speed", "a") is not None
    store.record("speed", "b", a_measurement(), "again")

    assert shared.read_bytes() == before
    assert not path.is_symlink()
    assert sorted(BaselineStore(store.root).load("test-gpu", "speed").rows) == ["a", "b"]  # type: ignore[union-attr]


def test_a_link_to_something_else_is_neither_read_nor_written(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "authorized_keys"
    other.write_text("ssh-ed25519 AAAA")
    path.unlink()
    path.symlink_to(other)

    with pytest.raises(BaselineError, match="is not whole JSON"):
        new_store(path).record("speed", "b", a_measurement(), "again")
    assert other.read_text() == "ssh-ed25519 AAAA"


@pytest.fixture
def outside(path: Path, tmp_path: Path) -> Path:
    """A folder outside, to which a link leads where the folder of the device's baselines was."""
    folder = path.parent.rename(tmp_path / "outside")
    path.parent.symlink_to(folder)
    return folder


def test_a_folder_that_is_a_link_to_outside_is_not_written_through(path: Path, outside: Path) -> None:
    before = (outside / "speed.json").read_bytes()

    with pytest.raises(BaselineError, match=f"test-gpu: is a link to {outside}, out of the folder of baselines"):
        new_store(path).record("speed", "b", a_measurement(), "again")
    assert [each.name for each in outside.iterdir()] == ["speed.json"]
    assert (outside / "speed.json").read_bytes() == before


def test_a_folder_that_is_a_link_to_outside_is_not_read(path: Path, outside: Path) -> None:
    with pytest.raises(BaselineError, match=f"test-gpu: is a link to {outside}, out of the folder of baselines"):
        new_store(path).find(a_measurement(), "speed", "a")


@pytest.mark.parametrize("link", ["nvidia-h100", "dangling", ".lock"])
def test_a_link_below_the_root_that_leads_out_is_found_before_anything_is_measured(
    path: Path, tmp_path: Path, link: str
) -> None:
    store = new_store(path)
    store.check_links()
    (store.root / link).unlink(missing_ok=True)
    (store.root / link).symlink_to(tmp_path / "nowhere" if link == "dangling" else tmp_path)

    with pytest.raises(BaselineError, match=f"{link}: is a (symbolic )?link"):
        store.check_links()


def test_a_folder_that_is_a_link_to_another_below_the_root_is_followed(path: Path) -> None:
    store = new_store(path)
    path.parent.rename(store.root / "h200")
    path.parent.symlink_to("h200")
    store.check_links()

    store.record("speed", "b", a_measurement(), "again")

    assert sorted(store.load("h200", "speed").rows) == ["a", "b"]  # type: ignore[union-attr]


def test_links_that_go_round_are_an_error_in_a_sentence(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)

    with pytest.raises(BaselineError, match="cannot be read: Too many levels of symbolic links"):
        new_store(path).find(a_measurement(), "speed", "a")


@unhurried
@given(device=st.text(max_size=60))
def test_a_device_of_any_name_has_a_folder_of_its_own_within_the_root(tmp_path: Path, device: str) -> None:
    measurement = a_measurement(environment=msgspec.structs.replace(ENVIRONMENT, device=device))
    folder = tmp_path / folder_name(measurement.environment or ENVIRONMENT, "full")

    assert folder.resolve().parent == tmp_path.resolve()
    with suppress(BaselineError):  # a name that is longer than a file's may be
        assert BaselineStore(tmp_path).find(measurement, "speed", "a") is None


@pytest.mark.parametrize("table", ["../speed", "a/../../b", "/etc/passwd", "..", "speed\0", "x" * 5000])
def test_a_name_that_is_a_path_reaches_no_file(path: Path, table: str) -> None:
    with pytest.raises(BaselineError, match="table name"):
        new_store(path).record(table, "a", a_measurement(), "again")
    with pytest.raises(BaselineError, match="table name"):
        new_store(path).find(a_measurement(), table, "a")


def published(folder: Path, content: bytes) -> Path:
    target = folder / "published" / "nvidia-a100-80gb" / "lora_rank.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return folder


@unhurried
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_no_published_table(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PublishedError):
        load_published(published(tmp_path, data))


@pytest.mark.parametrize(
    "nested", [b'{"format":1,"table":', b'{"format":1,"table":"lora_rank","source":"","rows":{"a":']
)
def test_a_published_table_nested_without_end_is_refused(tmp_path: Path, nested: bytes) -> None:
    with pytest.raises(PublishedError):
        load_published(published(tmp_path, nested + b"[" * 200_000))


def test_the_limit_of_a_baseline_leaves_room_for_a_thousand_rows() -> None:
    """The largest row that is stored here, of three processes, a thousand times."""
    tables = [msgspec.json.decode(file.read_bytes()) for file in (PUBLISHED / "nvidia-h200").glob("*.json")]
    rows = [json.dumps(row, indent=2) for table in tables for row in table["rows"].values()]
    largest = max(map(len, rows))

    assert largest * 1000 < file_module.MOST_MIB * MIB
    assert max(row.count(",") for row in rows) * 1000 < file_module.MOST_VALUES


def test_what_a_writer_interrupted_by_ctrl_c_has_begun_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        new_store(path).record("speed", "b", a_measurement(), "again")

    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["speed.json"]
