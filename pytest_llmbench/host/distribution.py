"""
Which code an installed distribution is, beyond its version: read from its files, without importing it.

An install from an index or a repository names the hash and size of each of its files in its RECORD. A file
was edited if its size is another, or if it is newer than RECORD and its hash is another: only such files are
read. Editable installs, checkouts on the path and installs without a RECORD are read whole.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from pytest_llmbench.host.repository import commit_of, edited_files
from pytest_llmbench.schema.environment import MOST_EDITED, Origin
from pytest_llmbench.schema.libraries import modules_of
from pytest_llmbench.schema.text import printable

__all__ = ["origins"]

MOST_HASHED = 2**26
"""Bytes of a file that is read; of a larger one the size has to do."""
_GONE = ""


def origins(distributions: Iterable[str], path: Sequence[str] | None = None) -> dict[str, Origin]:
    """
    The origin of each of these that is installed.

    Args:
        path: where another interpreter looks for modules. Without it they are those that this process imports,
            read once, so that an edit after the import is not taken for what ran.
    """
    found = ((name, _own_origin(name) if path is None else _origin(name, tuple(path))) for name in distributions)
    return {name: origin for name, origin in found if origin is not None}


@cache
def _own_origin(name: str) -> Origin | None:
    return _origin(name, tuple(sys.path))


def _origin(name: str, path: tuple[str, ...]) -> Origin | None:
    found = next(iter(metadata.distributions(name=name, path=list(path))), None)
    if found is None:
        return None
    direct = _direct_url(found)
    record = _record(found)
    module = next(iter(modules_of(name)), None)
    folder = _folder(module, path, direct) if module else None
    if folder is not None and (record is None or not _is_within(folder, record)):
        is_elsewhere = os.path.realpath(folder.parent) != os.path.realpath(str(found.locate_file("")))
        return _read_whole(folder, editable=is_elsewhere or direct.dir_info.editable)
    if record is None:
        return None
    return _origin_of(direct.vcs_info.commit_id, record.hashes, dict(_edited(record)), module)


class _Record(NamedTuple):
    """The files that were installed."""

    site: Path
    """Names are relative to it."""
    hashes: Mapping[str, str]
    """Name to the hexadecimal digits of its SHA-256, if RECORD has them."""
    sizes: Mapping[str, int]
    written_ns: int


def _record(found: metadata.Distribution) -> _Record | None:
    """None without a RECORD of files, as for an editable install."""
    site = Path(str(found.locate_file("")))
    about: Any = getattr(found, "_path", None)
    try:
        file = Path(about, "RECORD")
        rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))
        written_ns = file.stat().st_mtime_ns
    except (OSError, TypeError, ValueError, csv.Error):
        return None
    hashes, sizes = {}, {}
    for row in rows:
        if len(row) < 3 or not _is_code(row[0]) or not row[1].startswith("sha256="):
            continue
        digits = row[1].removeprefix("sha256=")
        with suppress(ValueError):
            hashes[row[0]] = base64.urlsafe_b64decode(digits + "=" * (-len(digits) % 4)).hex()
        if row[2].isdigit():
            sizes[row[0]] = int(row[2])
    return _Record(site, hashes, sizes, written_ns) if hashes else None


def _is_code(name: str) -> bool:
    """Tell whether it is a file of the library itself: no script for the shell, no metadata, no compiled copy."""
    first = name.partition("/")[0]
    return not (
        first in ("..", "")
        or first.endswith((".dist-info", ".egg-info", ".pth"))
        or first.startswith("__editable__")
        or name.endswith(".pyc")
    )


class _Vcs(msgspec.Struct, frozen=True):
    commit_id: str | None = None


class _Dir(msgspec.Struct, frozen=True):
    editable: bool = False


class _DirectUrl(msgspec.Struct, frozen=True):
    """What PEP 610 has an installer write down; empty for an install from an index."""

    url: str = ""
    vcs_info: _Vcs = _Vcs()
    dir_info: _Dir = _Dir()


def _direct_url(found: metadata.Distribution) -> _DirectUrl:
    try:
        return msgspec.json.decode(found.read_text("direct_url.json") or "{}", type=_DirectUrl)
    except msgspec.DecodeError:
        return _DirectUrl()


def _folder(module: str, path: tuple[str, ...], direct: _DirectUrl) -> Path | None:
    """The package's folder that is imported; of an editable install by a hook, that within its sources."""
    spec = PathFinder.find_spec(module, list(path))
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    source = Path(unquote(direct.url.removeprefix("file://")))
    if not (direct.dir_info.editable and source.is_absolute()):
        return None
    return next((one for one in (source / "src" / module, source / module) if one.is_dir()), None)


def _is_within(folder: Path, record: _Record) -> bool:
    return any(name.startswith(f"{folder.name}/") for name in record.hashes) and (
        os.path.realpath(folder) == os.path.realpath(record.site / folder.name)
    )


def _edited(record: _Record) -> Iterator[tuple[str, str]]:
    """Files that are not as they were installed, with their hashes of now."""
    for name, installed in record.hashes.items():
        path = f"{record.site}/{name}"
        try:
            now = os.stat(path)  # noqa: PTH116 - of thousands of files, which a Path takes twice as long for
        except OSError:
            yield name, _GONE
            continue
        same_size = now.st_size == record.sizes.get(name, now.st_size)
        if same_size and (now.st_mtime_ns <= record.written_ns or now.st_size > MOST_HASHED):
            continue
        if (digest := _hash(path, now.st_size)) != installed:
            yield name, digest


def _read_whole(folder: Path, *, editable: bool) -> Origin:
    """The origin of a checkout: what it holds, and how that differs from its commit."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
        if _is_code(name) and "/." not in name and path.is_file():
            hashes[name] = _hash(str(path), path.stat().st_size)
    real = folder.resolve()
    commit = commit_of(real)
    names = (f"{folder.name}/{name}" for name in edited_files(real)) if commit else ()
    edited = {name: hashes.get(name, _GONE) for name in names if _is_code(name)}
    return msgspec.structs.replace(_origin_of(commit, hashes, edited, folder.name), editable=editable)


def _origin_of(commit: str | None, hashes: Mapping[str, str], edited: Mapping[str, str], module: str | None) -> Origin:
    now = {name: digest for name, digest in {**hashes, **edited}.items() if digest != _GONE}
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(now.items()))
    named = sorted(edited.items())[:MOST_EDITED]
    return Origin(
        commit=None if commit is None else printable(commit, lines=False),
        digest=hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:12],
        edited={printable(name.removeprefix(f"{module}/"), lines=False): digest[:8] for name, digest in named},
    )


def _hash(path: str, size: int) -> str:
    """Digits of the content; of what is too large, or cannot be read, the size."""
    if size <= MOST_HASHED:
        with suppress(OSError):
            return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return f"{size} bytes"
