"""What a pull request's run leaves behind, as somebody hostile would make it."""

from __future__ import annotations

import contextlib
import struct
import zipfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from measurements import good, measured
from pytest_llmbench.judge.compare import judge
from pytest_llmbench.store.artefact import MOST_MEMBERS, MOST_MIB, ArtefactError, read_artefact
from pytest_llmbench.store.changes import Changed, Changes, Moved
from pytest_llmbench.store.results import Result, ResultLog

CHANGES = Changes(before="main", after="here")


def lines(folder: Path, *rows: str) -> bytes:
    """A file of results, as a run writes it."""
    log = ResultLog(folder / "written.jsonl")
    for row in rows:
        now = measured(good({"samples_per_second": 2.0}))
        verdict = judge(now, None)
        log.append(
            Result(
                nodeid=row, table="t", row=row, measurement=now, verdict=verdict, decision="pass", message="", seconds=1
            )
        )
    log.close()
    return (folder / "written.jsonl").read_bytes()


def packed(folder: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(folder / "artefact.zip", "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return folder / "artefact.zip"


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    (folder / "artefact").mkdir()
    for name, data in files.items():
        (folder / "artefact" / name).write_bytes(data)
    return folder / "artefact"


@pytest.mark.parametrize("make", [packed, unpacked])
def test_results_and_changes_are_read_from_an_archive_and_from_a_folder(tmp_path: Path, make: object) -> None:
    assert callable(make)
    path = make(tmp_path, {"fake.jsonl": lines(tmp_path, "a", "b"), "baselines.json": msgspec.json.encode(CHANGES)})

    found = read_artefact(path)

    assert [result.row for result in found.results["fake.jsonl"]] == ["a", "b"]
    assert found.changes == CHANGES
    assert found.refused == ()


@pytest.mark.parametrize("name", ["../fake.jsonl", "/fake.jsonl", "x/fake.jsonl", "fake.jsonl/", "FAKE.jsonl", "x.sh"])
def test_a_file_of_another_name_is_not_opened(tmp_path: Path, name: str) -> None:
    found = read_artefact(packed(tmp_path, {name: lines(tmp_path, "a")}))

    assert (found.results, found.refused) == ({}, ())


def test_nothing_is_unpacked_beside_the_archive(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    archive = packed(inner, {"../outside.jsonl": b"x", "fake.jsonl": lines(tmp_path, "a")})

    read_artefact(archive)

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["artefact.zip", "inner", "written.jsonl"]


def test_a_file_that_grows_when_it_is_unpacked_is_not_read(tmp_path: Path) -> None:
    found = read_artefact(packed(tmp_path, {"fake.jsonl": b"\n" * ((MOST_MIB + 1) * 2**20)}))

    assert found.refused == (f"fake.jsonl: is not read: it has more than {MOST_MIB} MiB",)


def test_a_size_that_the_archive_lies_about_is_not_believed(tmp_path: Path) -> None:
    path = packed(tmp_path, {"fake.jsonl": b"\n" * ((MOST_MIB + 1) * 2**20)})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 24 : data.rindex(b"PK\x01\x02") + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(data)

    assert "it has more than" in read_artefact(path).refused[0]


def test_a_name_that_comes_twice_is_not_read(tmp_path: Path) -> None:
    path = packed(tmp_path, {"fake.jsonl": lines(tmp_path, "a")})
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("fake.jsonl", b"")

    assert read_artefact(path).refused == ("fake.jsonl: is not read: it is there more than once",)


def test_a_packing_that_github_does_not_use_is_not_read(tmp_path: Path) -> None:
    path = packed(tmp_path, {"fake.jsonl": lines(tmp_path, "a")}, zipfile.ZIP_LZMA)

    assert read_artefact(path).refused == ("fake.jsonl: is not read: it is packed as GitHub packs nothing",)


def test_a_link_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, {})
    (folder / "fake.jsonl").symlink_to("/etc/passwd")

    assert read_artefact(folder).refused == ("fake.jsonl: is not read: it is a link",)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x00" * 4096, b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_archive_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "artefact.zip").write_bytes(content)

    with pytest.raises(ArtefactError):
        read_artefact(tmp_path / "artefact.zip")


def test_an_archive_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="there is no such file or folder"):
        read_artefact(tmp_path / "artefact.zip")


def test_an_archive_of_very_many_files_is_an_error(tmp_path: Path) -> None:
    path = packed(tmp_path, {f"{number}": b"" for number in range(MOST_MEMBERS + 1)})

    with pytest.raises(ArtefactError, match="and no artefact of llmbench has so many"):
        read_artefact(path)


def test_an_archive_with_a_bad_checksum_is_an_error(tmp_path: Path) -> None:
    path = packed(tmp_path, {"fake.jsonl": lines(tmp_path, "a")}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b'"nodeid":"a"', b'"nodeid":"b"'))

    with pytest.raises(ArtefactError, match="CRC"):
        read_artefact(path)


def test_a_line_that_is_no_result_is_left_out_and_told(tmp_path: Path) -> None:
    found = read_artefact(packed(tmp_path, {"fake.jsonl": lines(tmp_path, "a") + b'{"format":1,"evil":"\\u001b"}\n'}))

    assert len(found.results["fake.jsonl"]) == 1
    assert found.refused[0].startswith("fake.jsonl, line 2: ")


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b'{"format":1,"before":"a","after":"b","more":1}', b"\xff", b"[" * 10_000]
)
def test_changes_of_another_form_are_told(tmp_path: Path, content: bytes) -> None:
    found = read_artefact(packed(tmp_path, {"baselines.json": content}))

    assert found.changes is None
    assert found.refused[0].startswith("baselines.json: ")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data())
def test_an_archive_of_which_bytes_were_exchanged_is_read_or_is_an_error(
    tmp_path: Path, data: strategies.DataObject
) -> None:
    written = lines(tmp_path, "a")
    (tmp_path / "written.jsonl").unlink()
    content = bytearray(
        packed(tmp_path, {"fake.jsonl": written, "baselines.json": msgspec.json.encode(CHANGES)}).read_bytes()
    )
    for _ in range(data.draw(strategies.integers(1, 8))):
        at = data.draw(strategies.integers(0, len(content) - 1))
        content[at : at + data.draw(strategies.integers(0, 3))] = data.draw(strategies.binary(max_size=4))
    (tmp_path / "artefact.zip").write_bytes(content)

    with contextlib.suppress(ArtefactError):
        read_artefact(tmp_path / "artefact.zip")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=strategies.binary(max_size=200))
def test_files_of_arbitrary_bytes_are_read_or_told(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "artefact"
    folder.mkdir(exist_ok=True)
    for name in ("fake.jsonl", "baselines.json"):
        (folder / name).write_bytes(content)

    found = read_artefact(folder)

    assert found.changes is None
    assert not any(found.results.values())


def test_changes_of_a_metric_that_does_not_exist_are_told(tmp_path: Path) -> None:
    moved = Moved(metric="evil", before=1.0, after=2.0, change=1.0)
    row = Changed(
        folder="f",
        table="t",
        row="r",
        kind="changed",
        outcomes=("ok", "ok"),
        reason=None,
        recorded_at=None,
        moved=(moved,),
    )
    written = msgspec.json.encode(msgspec.structs.replace(CHANGES, rows=(row,)))

    assert "metric that is not known" in read_artefact(packed(tmp_path, {"baselines.json": written})).refused[0]
