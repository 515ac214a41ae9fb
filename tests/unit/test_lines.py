"""Files of lines: written whole, read whole, claimed by one writer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pytest_llmbench.store.lines import LineError, LineFile, ResultError, decoded, read_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "lines.jsonl"


def write(path: Path, *lines: bytes) -> None:
    file = LineFile(path)
    for line in lines:
        file.write(line)
    file.close()


def test_lines_are_read_in_the_order_of_their_writing(path: Path) -> None:
    write(path, b"1", b"2")
    write(path, b"3")

    assert read_lines(path) == [b"1", b"2", b"3"]


def test_a_torn_end_is_passed_over_by_readers_and_cut_off_by_the_next_writer(path: Path) -> None:
    write(path, b"[1]")
    path.write_bytes(path.read_bytes() + b"[2")

    assert read_lines(path) == [b"[1]"]
    write(path, b"[3]")
    assert path.read_bytes() == b"[1]\n[3]\n"


def test_an_end_that_is_not_torn_gets_its_newline(path: Path) -> None:
    write(path, b"[1]")
    path.write_bytes(path.read_bytes() + b"[2]")

    LineFile(path, is_torn=lambda _: False).close()

    assert path.read_bytes() == b"[1]\n[2]\n"


def test_a_file_that_one_writer_wants_alone_has_no_other_such_writer(path: Path) -> None:
    first = LineFile(path, alone=True)

    with pytest.raises(ResultError, match=r"lines\.jsonl: another run is writing to it"):
        LineFile(path, alone=True)
    first.close()


def test_a_line_that_is_no_such_value_says_why() -> None:
    with pytest.raises(LineError, match="Expected `int`"):
        decoded(b'"one"', msgspec.json.Decoder(int).decode)
