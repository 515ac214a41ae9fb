"""
The folder of baselines: where a row's file is, and how it is read and changed.

`<root>/<device>/<table>.json` holds the full scale, `<root>/<device>-smoke/<table>.json` the
miniatures. Writers take turns by a lock, readers need none: they see the old file or the new one.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import msgspec

from pytest_llmbench.judge.compare import Reference
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.metrics import Noise
from pytest_llmbench.schema.workload import Scale
from pytest_llmbench.store.baseline import MOST_MIB, BaselineError, BaselineFile, BaselineRow, decode, encode
from pytest_llmbench.store.files import leads_out, read_file
from pytest_llmbench.store.update import RefusedUpdate, completed, why_refused

__all__ = ["BaselineStore", "Baselines", "folder_name", "why_no_name"]

LOCK_SECONDS = 60.0
"""A writer holds the lock for milliseconds; one that waits this long never gets it."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")
"""
No separator, no leading dot: such a name stays in its folder. No letters beyond ASCII: systems spell the same one
in different bytes, and a checkout on another would not find its file.
"""
_NO_FILE = "cannot be a file's: use up to 120 letters a to z, digits, '_', '-' and '.', but neither '-' nor '.' first"
MAX_ROW_CHARACTERS = 200


def folder_name(environment: Environment, scale: Scale) -> str:
    """The folder of a store in which measurements of this device and scale are."""
    return environment.device_slug if scale == "full" else f"{environment.device_slug}-{scale}"


def why_no_name(table: str, row: str) -> str | None:
    """Why a row of this name could not be stored, with what to rename; None for one that could."""
    if not _NAME.fullmatch(table):
        return f"table name {table!r} {_NO_FILE}; rename the test"
    if not (0 < len(row) <= MAX_ROW_CHARACTERS and row.isprintable()):
        return (
            f"row name {row!r} of table {table!r} is not 1 to {MAX_ROW_CHARACTERS} printable characters; "
            "give the parameters other ids"
        )
    return None


class Baselines(ABC):
    """The baselines under one root, which are read here; `BaselineStore` also writes them."""

    root: Path
    """As it is, or was, in the working tree."""
    _decoded: dict[Path, tuple[bytes, BaselineFile]]

    @abstractmethod
    def _content(self, path: Path) -> bytes | None:
        """
        Content of the file at *path*, or None where there is no such file.

        Raises:
            BaselineError: it is there and cannot be read.
        """

    @abstractmethod
    def _named(self, path: Path) -> Path:
        """*path* as errors name it."""

    @abstractmethod
    def _paths(self, folder: str) -> Iterable[Path]:
        """Files that may hold a table, in order."""

    def load(self, folder: str, table: str) -> BaselineFile | None:
        """
        All rows of one table, or None if none is stored.

        Args:
            folder: as `folder_name` gives it.

        Raises:
            BaselineError: the file is there and is not a whole baseline, or *folder* or *table* is no file's name.
        """
        path = self._path(folder, table)
        data = self._content(path)
        if data is None:
            return None
        known = self._decoded.get(path)
        if known is not None and known[0] == data:
            return known[1]
        file = decode(data, self._named(path))
        if file.table != table:
            raise BaselineError(
                f"is {file.table!r} where the file's name says {table!r}", self._named(path), ("table",)
            )
        self._decoded[path] = (data, file)
        return file

    def find(self, measurement: Measurement, table: str, row: str) -> Reference | None:
        """
        What *measurement* is to be held against: the stored row of this name on its device, at its scale.

        None without one, and for a measurement that never came so far as to know its device.

        Raises:
            BaselineError: as for `load`.
        """
        if measurement.environment is None:
            return None
        file = self.load(folder_name(measurement.environment, measurement.workload.scale), table)
        return file.reference(row) if file else None

    def measurements(self) -> Iterator[Measurement]:
        """Whatever is stored, of all devices."""
        for _, file in self.files():
            yield from map(file.measurement, file.rows)

    def files(self, folder: str = "*") -> Iterator[tuple[str, BaselineFile]]:
        """Folder and content of every table; a file that is no whole baseline is left to whoever needs a row of it."""
        for name, table in self.tables(folder):
            with suppress(BaselineError):
                if file := self.load(name, table):
                    yield name, file

    def tables(self, folder: str = "*") -> Iterator[tuple[str, str]]:
        """Folder and table of each file, which need not be a whole one."""
        for path in self._paths(folder):
            yield path.parent.name, path.stem

    def same_content(self, other: Baselines, folder: str, table: str) -> bool:
        """Whether the file of a table is the same here and there, byte by byte, or is in neither."""
        return self._content(self._path(folder, table)) == other._content(other._path(folder, table))

    def _path(self, folder: str, table: str) -> Path:
        for kind, name in (("folder", folder), ("table", table)):
            if not _NAME.fullmatch(name):
                raise BaselineError(f"{kind} name {name!r} {_NO_FILE}", self._named(self.root))
        return self.root / folder / f"{table}.json"


class BaselineStore(Baselines):
    """
    The baselines under one root, which need not exist before the first `record`.

    Every method that takes a name raises `BaselineError` for one that could not be a file's name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._decoded = {}

    def check_links(self) -> None:
        """
        Look at the links right below the root before anything is measured.

        Raises:
            BaselineError: one of them leads out of the root, or stands in the place of the lock.
        """
        self._check_lock()
        try:
            links = sorted(path for path in self.root.iterdir() if path.is_symlink() and not path.is_file())
        except OSError:  # there is no folder yet, or it cannot be read, which whoever needs a row is told
            return
        for path in links:
            self._check_folder(path)

    def _content(self, path: Path) -> bytes | None:
        try:
            return read_file(path, most_mib=MOST_MIB)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BaselineError(f"cannot be read: {error.strerror}", path) from error

    def _named(self, path: Path) -> Path:
        return path

    def _paths(self, folder: str) -> Iterable[Path]:
        return sorted(self.root.glob(f"{folder}/*.json"))

    def _path(self, folder: str, table: str) -> Path:
        path = super()._path(folder, table)
        self._check_folder(path.parent)
        return path

    def record(self, table: str, row: str, measurement: Measurement, because: str) -> Path:
        """
        Store *measurement* as the baseline of the row; the row's own tolerances and noise, and all other rows, stay.

        Args:
            because: why, for those who read the file later.

        Returns:
            The file.

        Raises:
            RefusedUpdate: it must not become a baseline.
            BaselineError: the file cannot be written, or is damaged and would be lost; it is left as it was.
        """
        refused = why_refused(measurement)
        if refused or measurement.environment is None:
            raise RefusedUpdate(f"{table}, row {row!r} is not recorded: {refused}")
        folder = folder_name(measurement.environment, measurement.workload.scale)
        path = self._path(folder, table)
        if why := why_no_name(table, row):
            raise BaselineError(why, path)
        with self._locked(path):
            file = self.load(folder, table) or BaselineFile(table=table)
            kept = file.rows.get(row)
            stored = BaselineRow.of(
                measurement,
                because=because,
                tolerances=kept.tolerances if kept else None,
                noise=kept.noise if kept else None,
            )
            self._write(path, file, row, stored, measurement.environment)
        return path

    def complete(self, table: str, row: str, measurement: Measurement, names: Sequence[str]) -> Path:
        """
        Add the metrics *names* of *measurement* to a stored row that predates them; nothing else of it changes.

        Raises:
            RefusedUpdate: the measurement must not become a baseline.
            BaselineError: there is no such row, or the file cannot be written.
        """
        refused = why_refused(measurement)
        if refused or measurement.environment is None:
            raise RefusedUpdate(f"{table}, row {row!r} is not completed: {refused}")
        path = self._path(folder_name(measurement.environment, measurement.workload.scale), table)
        with self._locked(path):
            file = self.load(path.parent.name, table)
            if file is None or row not in file.rows:
                raise BaselineError(f"there is no row {row!r} to complete", path)
            kept = file.rows[row]
            stored = msgspec.structs.replace(kept, processes=completed(kept.processes, measurement.processes, names))
            self._write(path, file, row, stored, file.environments[stored.environment])
        return path

    def calibrate(self, folder: str, table: str, row: str, noise: Mapping[str, Noise]) -> Path:
        """
        Give a stored row its own noise, by metric; nothing else of it changes.

        Raises:
            BaselineError: there is no such row, or the file cannot be written.
        """
        path = self._path(folder, table)
        with self._locked(path):
            file = self.load(folder, table)
            if file is None or row not in file.rows:
                raise BaselineError(f"there is no row {row!r} to calibrate", path)
            stored = msgspec.structs.replace(file.rows[row], noise=dict(noise))
            self._write(path, file, row, stored, file.environments[stored.environment])
        return path

    def _write(self, path: Path, file: BaselineFile, row: str, stored: BaselineRow, environment: Environment) -> None:
        changed = file.with_row(row, stored, environment)
        data = encode(changed, decoded=file.rows.keys() - {row})
        _replace(path, data)
        self._decoded[path] = (data, changed)

    def _check_folder(self, folder: Path) -> None:
        if there := leads_out(folder, self.root):
            raise BaselineError(
                f"is a link to {there}, out of the folder of baselines; remove it, or name that folder's parent "
                "as the folder of baselines",
                folder,
            )

    def _check_lock(self) -> None:
        lock = self.root / ".lock"
        if lock.is_symlink():  # releases of filelock before 3.20.1 empty the file it leads to
            raise BaselineError("is a symbolic link, which a lock must not be; remove it", lock)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """One lock for the whole root, so that a repository has one such file to ignore."""
        self._check_lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.root / ".lock", timeout=LOCK_SECONDS):
                yield
        except filelock.Timeout as error:
            raise BaselineError(f"another process has kept {error.lock_file} for {LOCK_SECONDS:.0f} s", path) from error
        except OSError as error:
            raise BaselineError(f"cannot be written: {error.strerror or error}", path) from error


def _replace(path: Path, data: bytes) -> None:
    """All of *data* or nothing, whatever is killed when. The caller holds the lock."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)  # left by a killed writer, or a link that leads elsewhere
        with new.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    except BaseException:  # Ctrl-C too
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Without this a power cut may take the rename back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
