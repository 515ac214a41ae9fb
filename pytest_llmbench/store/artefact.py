"""
What a pull request's run leaves behind for those who may comment: written by code that nobody has reviewed.

Only files of known names are opened, up to a size, and none is unpacked to a place that they name.
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.schema.text import printable
from pytest_llmbench.store.changes import Changes
from pytest_llmbench.store.files import read_file
from pytest_llmbench.store.lines import LineError, ResultError, decoded
from pytest_llmbench.store.results import Result, latest, read_results

__all__ = ["CHANGES", "RESULTS", "Artefact", "ArtefactError", "read_artefact"]

RESULTS = ("fake.jsonl", "smoke.jsonl")
"""Result files: of rows at full size, and of miniatures."""
CHANGES = "baselines.json"
"""What `llmbench baselines diff --json` wrote."""
MOST_MIB = 16
"""Size of one file, unpacked, and of an archive; the twelve rows of a pull request take less than one."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods by which GitHub packs."""
MOST_MEMBERS = 100
MOST_ROWS = 500


class ArtefactError(ValueError):
    """An artefact that is none; the message names it."""


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """What could be read."""

    results: dict[str, tuple[Result, ...]] = {}
    """By file; the last result of each row."""
    changes: Changes | None = None
    refused: tuple[str, ...] = ()
    """Sentences on files and lines that could not be read."""


def read_artefact(path: Path) -> Artefact:
    """
    Results and differences of an artefact, as far as they are what they should be.

    Args:
        path: a ZIP archive as GitHub gives it, or the folder that went into it.

    Raises:
        ArtefactError: neither of these.
    """
    results: dict[str, tuple[Result, ...]] = {}
    changes = None
    refused: list[str] = []
    for name, data in _files(path, refused):
        try:
            if name == CHANGES:
                changes = _changes(data)
            else:
                results[name] = _results(data, name, refused)
        except (ResultError, LineError, ArtefactError) as error:
            refused.append(f"{name}: {error}")
    return Artefact(results=results, changes=changes, refused=tuple(refused))


def _files(path: Path, refused: list[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files that are known, in one order."""
    read = _of_folder if path.is_dir() else _of_archive
    for name in (*RESULTS, CHANGES):
        try:
            data = read(path, name)
        except OSError as error:
            refused.append(f"{name}: is not read: {error.strerror or error}")
        else:
            if data is not None:
                yield name, data


def _of_folder(path: Path, name: str) -> bytes | None:
    file = path / name
    if file.is_symlink():
        raise OSError(0, "it is a link")
    try:
        return read_file(file, most_mib=MOST_MIB)
    except FileNotFoundError:
        return None


def _of_archive(path: Path, name: str) -> bytes | None:
    try:
        if path.stat().st_size > MOST_MIB * 2**20:
            raise ArtefactError(f"{path}: has more than {MOST_MIB} MiB, and no artefact of llmbench has")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                raise ArtefactError(f"{path}: has {len(members)} files, and no artefact of llmbench has so many")
            found = [one for one in members if one.filename == name]
            if not found:
                return None
            if len(found) > 1:
                raise OSError(0, "it is there more than once")
            if found[0].compress_type not in _METHODS:
                raise OSError(0, "it is packed as GitHub packs nothing")
            with archive.open(found[0]) as stream:
                data = stream.read(MOST_MIB * 2**20 + 1)  # the size that the archive says may be any
    except FileNotFoundError:
        raise ArtefactError(f"{path}: there is no such file or folder") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, ArtefactError):
            raise
        raise ArtefactError(
            f"{path}: is no ZIP archive that can be read: {printable(str(error), lines=False)}"
        ) from None
    if len(data) > MOST_MIB * 2**20:
        raise OSError(0, f"it has more than {MOST_MIB} MiB")
    return data


def _results(data: bytes, name: str, refused: list[str]) -> tuple[Result, ...]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(data)
        found = latest(read_results(file, lambda sentence: refused.append(str(sentence).removeprefix(f"{folder}/"))))
    if len(found) > MOST_ROWS:
        raise ArtefactError(f"has {len(found)} rows, and no run of a pull request has so many")
    return found


def _changes(data: bytes) -> Changes:
    found = decoded(data, msgspec.json.Decoder(Changes).decode)
    unknown = [one.metric for row in found.rows for one in row.moved if one.metric not in METRICS]
    if unknown:
        raise ArtefactError(f"has a metric that is not known here: {printable(unknown[0], lines=False)}")
    if len(found.rows) > MOST_ROWS:
        raise ArtefactError(f"has {len(found.rows)} rows, and no change has so many")
    return found
