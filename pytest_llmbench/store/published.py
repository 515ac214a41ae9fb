"""
The numbers of the published page, as stored under `baselines/published/`.

They are shown beside what is measured and never judged against: other hardware, other libraries,
one run a row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.text import printable_json
from pytest_llmbench.store.baseline import MOST_MIB
from pytest_llmbench.store.files import read_file

__all__ = ["PRINTED", "PublishedError", "PublishedRow", "PublishedTable", "load_published"]

_T = TypeVar("_T")
PRINTED = ("samples_per_second", "peak_reserved_bytes")
"""Metrics of which the page has a number."""
Positive = Annotated[float, msgspec.Meta(gt=0)]


class PublishedError(ValueError):
    """A file of published numbers that cannot be trusted; the message names file, row and field."""


class PublishedRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the page says about one row; None where it says nothing."""

    outcome: Literal["ok", "oom"]
    samples_per_second: Positive | None
    """Of all GPUs together: samples of one epoch over the wall time of the training loop, warm-up included."""
    memory_gib: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] | None
    """Peak of what torch reserved (1024 ** 3 bytes), per GPU."""
    trainable_parameters_millions: Positive | None
    """Millions (10 ** 6) of parameters with a gradient."""

    def __post_init__(self) -> None:
        for field in ("samples_per_second", "memory_gib"):
            if (getattr(self, field) is None) != (self.outcome == "oom"):
                needed = "a null" if self.outcome == "oom" else "a value"
                raise ValueError(f"outcome '{self.outcome}' needs {needed} - at `$.{field}`")

    def value(self, metric: str) -> Value | None:
        """What the page says of a metric, in the metric's unit."""
        if metric == "samples_per_second":
            return self.samples_per_second
        if metric == "peak_reserved_bytes" and self.memory_gib:
            return tuple(round(part * 2**30) for part in self.memory_gib)
        return None


class PublishedTable(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the page as it was printed."""

    table: str
    """A name in `tables.TABLES`."""
    source: str
    """Where the numbers come from: page, hardware, library versions."""
    rows: dict[str, PublishedRow]
    """By row id, in the order of the page."""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stored table whose rows are still undecoded, so that an error can name its row."""

    format: Literal[1]
    table: str
    source: str
    rows: dict[str, msgspec.Raw]


def load_published(root: Path, device: str = "nvidia-a100-80gb") -> dict[str, PublishedTable]:
    """
    The published tables of *device*, by table name; empty where there are none.

    Args:
        root: the folder of all baselines, which holds `published/`.
        device: name of a folder in `published/`.

    Raises:
        PublishedError: a file is not what this version reads.
    """
    paths = sorted((root / "published" / device).glob("*.json"))
    return {path.stem: _load(path) for path in paths}


def _load(path: Path) -> PublishedTable:
    try:
        content = read_file(path, most_mib=MOST_MIB)
    except OSError as error:
        raise PublishedError(f"{path}: cannot be read: {error.strerror}") from error
    file = _decode(content, _File, where=str(path))
    if file.table != path.stem:
        raise PublishedError(f"{path}: field 'table' is {file.table!r}; a file is named after its table")
    rows = {id_: _decode(raw, PublishedRow, where=f"{path}: row {id_!r}") for id_, raw in file.rows.items()}
    return PublishedTable(table=file.table, source=file.source, rows=rows)


def _decode(content: bytes | msgspec.Raw, kind: type[_T], *, where: str) -> _T:
    try:
        return msgspec.json.decode(printable_json(bytes(content)), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PublishedError(f"{where}: {error}; correct it, or restore the file as it was released") from error
