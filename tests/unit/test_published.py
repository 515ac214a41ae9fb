from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from pytest_llmbench.store.published import PublishedError, PublishedRow, load_published

ROW = b'{"outcome": "ok", "samples_per_second": 4, "memory_gib": [73.7, 78.5], "trainable_parameters_millions": null}'
OUT_OF_MEMORY = (
    b'{"outcome": "oom", "samples_per_second": null, "memory_gib": null, "trainable_parameters_millions": null}'
)
TABLE = b'{"format": 1, "table": "sizes", "source": "a page", "rows": {"small": ROW}}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "published" / "nvidia-a100-80gb"
    folder.mkdir(parents=True)
    return folder


def load_row(folder: Path, row: bytes) -> PublishedRow:
    (folder / "sizes.json").write_bytes(TABLE.replace(b"ROW", row))
    return load_published(folder.parents[1])["sizes"].rows["small"]


def test_a_table_is_read_as_it_was_printed(folder: Path) -> None:
    assert load_row(folder, ROW) == PublishedRow(
        outcome="ok", samples_per_second=4.0, memory_gib=(73.7, 78.5), trainable_parameters_millions=None
    )


def test_the_source_of_a_table_is_kept(folder: Path) -> None:
    load_row(folder, ROW)

    assert load_published(folder.parents[1])["sizes"].source == "a page"


def test_out_of_memory_has_no_numbers(folder: Path) -> None:
    row = load_row(folder, OUT_OF_MEMORY)

    assert (row.outcome, row.samples_per_second, row.memory_gib) == ("oom", None, None)


def test_a_missing_folder_holds_no_tables(tmp_path: Path) -> None:
    assert load_published(tmp_path) == {}


def test_another_device_has_a_folder_of_its_own(folder: Path) -> None:
    load_row(folder, ROW)

    assert load_published(folder.parents[1], "nvidia-h200") == {}


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        pytest.param(b'"samples_per_second": 4, ', b"", "samples_per_second", id="missing"),
        pytest.param(b'"samples_per_second": 4', b'"samples_per_second": "4"', "samples_per_second", id="text"),
        pytest.param(b'"samples_per_second": 4', b'"samples_per_second": true', "samples_per_second", id="boolean"),
        pytest.param(b'"samples_per_second": 4', b'"samples_per_second": 0', "samples_per_second", id="zero"),
        pytest.param(b'"samples_per_second": 4', b'"samples_per_second": 1e999', "samples_per_second", id="infinite"),
        pytest.param(b'"samples_per_second": 4', b'"samples_per_second": null', "samples_per_second", id="no-speed"),
        pytest.param(b"[73.7, 78.5]", b"null", "memory_gib", id="no-memory"),
        pytest.param(b"[73.7, 78.5]", b"[]", "memory_gib", id="no-gpu"),
        pytest.param(b"[73.7, 78.5]", b"[73.7, -78.5]", "memory_gib[1]", id="negative"),
        pytest.param(b"[73.7, 78.5]", b"73.7", "memory_gib", id="not-per-gpu"),
        pytest.param(b'"ok"', b'"crashed"', "outcome", id="unknown-outcome"),
        pytest.param(b'"ok"', b'"oom"', "samples_per_second", id="oom-with-a-speed"),
        pytest.param(b"{", b'{"loss": 1, ', "loss", id="unknown-field"),
    ],
)
def test_a_bad_field_is_named_with_file_and_row(folder: Path, old: bytes, new: bytes, field: str) -> None:
    bad = ROW.replace(old, new)
    assert bad != ROW

    with pytest.raises(PublishedError, match=rf"sizes\.json: row 'small': .*{re.escape(field)}`"):
        load_row(folder, bad)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param(b'"format": 1', b'"format": 2', "`$.format`", id="other-format"),
        pytest.param(b'"source": "a page", ', b"", "`source`", id="missing"),
        pytest.param(b'"format": 1', b'"format": 1, "note": ""', "`note`", id="unknown-field"),
        pytest.param(b'"rows": {"small": ROW}', b'"rows": []', "`$.rows`", id="rows-without-ids"),
        pytest.param(b'"sizes"', b'"other"', "'table' is 'other'", id="name-of-another-table"),
        pytest.param(b'"small": ROW', b'"small": NaN', "malformed", id="nan"),
        pytest.param(b"}}", b"}", "truncated", id="truncated"),
        pytest.param(b"small", b"\xff", "utf-8", id="not-utf-8"),
    ],
)
def test_a_bad_file_is_named(folder: Path, old: bytes, new: bytes, words: str) -> None:
    bad = TABLE.replace(old, new)
    assert bad != TABLE
    (folder / "sizes.json").write_bytes(bad.replace(b"ROW", ROW))

    with pytest.raises(PublishedError, match=rf"sizes\.json: .*{re.escape(words)}"):
        load_published(folder.parents[1])


def test_the_error_keeps_its_cause(folder: Path) -> None:
    with pytest.raises(PublishedError) as caught:
        load_row(folder, b"{}")

    assert isinstance(caught.value.__cause__, msgspec.ValidationError)
