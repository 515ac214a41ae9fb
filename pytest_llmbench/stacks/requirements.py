"""Requirements and lock files as pip reads them: which packages they name, how two differ, and mixtures of two."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from pytest_llmbench.schema.credentials import redacted
from pytest_llmbench.schema.text import printable
from pytest_llmbench.stacks import StackError

__all__ = ["Requirements", "changed_names", "mixture", "read_requirements"]

_INCLUDE = re.compile(r"(?:-r|--requirement)(?:\s+|=)?(?P<path>\S.*)")
_WITH_PATH = re.compile(r"(?P<option>-c|--constraint|-f|--find-links)(?:\s+|=)?(?P<path>\S.*)")
_SPLIT = re.compile(r"\s+--(?=[a-z])")
_COMMIT = re.compile(r"@([0-9a-f]{40})(?=#|$)")
_EGG = re.compile(r"#egg=(?P<name>[A-Za-z0-9._-]+)")


class Requirements(msgspec.Struct, frozen=True):
    """Requirements of a file, includes and continued lines resolved."""

    options: tuple[str, ...]
    """Lines for the installer, as `--index-url ...`; paths in them are absolute."""
    lines: dict[str, str]
    """Normalised name of the package to its line, hashes and markers included."""

    @property
    def text(self) -> str:
        """Text of a requirements file."""
        return "\n".join([*self.options, *self.lines.values(), ""])

    @property
    def printable_lines(self) -> dict[str, str]:
        """Lines as they may be stored and printed."""
        return {name: _printable(line) for name, line in self.lines.items()}

    def version(self, name: str) -> str | None:
        """
        What the file asks of a package, to be printed: its version if it is pinned, its commit, else what stands there.

        None without a line.
        """
        line = self.lines.get(name)
        if line is None:
            return None
        wanted = _SPLIT.split(line)[0].strip()
        try:
            requirement = Requirement(wanted)
        except InvalidRequirement:
            return _printable(wanted)
        if requirement.url and (commit := _COMMIT.search(requirement.url)):
            return f"@{commit[1][:7]}"
        pinned = [one.version for one in requirement.specifier if one.operator in ("==", "===")]
        return _printable(pinned[0] if pinned else requirement.url or str(requirement.specifier) or "any")

    def without_hashes(self) -> Requirements:
        """The same, installable together with a package whose hash nobody knows."""
        return Requirements(self.options, {name: _SPLIT.split(line)[0] for name, line in self.lines.items()})


def read_requirements(path: Path) -> Requirements:
    """
    Raises:
        StackError: the file cannot be read, or a line is not a requirement.
    """
    options: list[str] = []
    lines: dict[str, str] = {}
    for source, number, line in _logical_lines(path, seen=()):
        if line.startswith("-") and not line.startswith(("-e", "--editable")):
            options.append(_absolute(line, source.parent))
            continue
        name = _name(line)
        if name is None:
            raise StackError(
                f"{source}, line {number}: {line[:60]!r} is not a requirement; export other lock files as "
                "requirements (uv export, poetry export, pip freeze)"
            )
        lines[name] = f"{lines[name]}\n{line}" if name in lines else line
    return Requirements(tuple(dict.fromkeys(options)), lines)


def changed_names(good: Requirements, bad: Requirements) -> tuple[str, ...]:
    """Packages that the two ask for differently, or that only one of them asks for, in alphabetical order."""
    return tuple(sorted(name for name in {*good.lines, *bad.lines} if good.lines.get(name) != bad.lines.get(name)))


def mixture(good: Requirements, bad: Requirements, names: Collection[str]) -> Requirements:
    """*good* with the packages *names* as *bad* has them."""
    lines = {name: line for name, line in good.lines.items() if name not in names}
    lines |= {name: line for name, line in bad.lines.items() if name in names}
    return Requirements(tuple(dict.fromkeys([*good.options, *bad.options])), dict(sorted(lines.items())))


def _logical_lines(path: Path, seen: tuple[Path, ...]) -> Iterator[tuple[Path, int, str]]:
    """File, line number and text of each requirement and option, includes followed."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StackError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    joined, start = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s+)#.*$", "", raw).rstrip()
        start = start if joined else number
        joined += line.removesuffix("\\").strip() + " "
        if line.endswith("\\"):
            continue
        whole, joined = joined.strip(), ""
        include = _INCLUDE.fullmatch(whole)
        if include is None:
            if whole:
                yield path, start, whole
            continue
        included = path.parent / include["path"]
        if included in seen or included == path:
            raise StackError(f"{path}, line {start}: {included} includes itself")
        yield from _logical_lines(included, (*seen, path))


def _printable(text: str) -> str:
    return printable(redacted(text))


def _absolute(option: str, folder: Path) -> str:
    """pip looks for these paths beside the file that names them; a mixture lies elsewhere."""
    match = _WITH_PATH.fullmatch(option)
    if match is None or not (folder / match["path"]).exists():
        return option
    return f"{match['option']} {(folder / match['path']).absolute()}"


def _name(line: str) -> str | None:
    """The normalised name of the package that a line asks for; the line itself, to be printed, where it has none."""
    wanted = _SPLIT.split(line)[0].strip()
    try:
        return canonicalize_name(Requirement(wanted).name)
    except InvalidRequirement:
        pass
    if egg := _EGG.search(wanted):
        return canonicalize_name(egg["name"])
    try:
        return parse_wheel_filename(wanted.rpartition("/")[2])[0]
    except InvalidWheelFilename:
        return _printable(wanted) if "/" in wanted or wanted.startswith("-e") else None
