"""Two result files of pytest runs held against each other, row by row, without measuring anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.schema.environment import Environment, Origin, Software, version_text
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.units import counted
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.store.results import Result, latest, read_results
from pytest_llmbench.trials.comparison import Compared, Comparison, is_code_known, package_diff

__all__ = ["compare_files"]

Rows = dict[tuple[str, str], Result]


def compare_files(
    a: Path, b: Path, tolerances: Mapping[str, Tolerance], left_out: Callable[[str], object]
) -> Comparison:
    """
    *b* against *a*, for the rows of the same table and name; of several results for a row the last counts.

    Args:
        left_out: told of each line that is no result.

    Raises:
        ResultError: a file cannot be read, or has no result.
    """
    before, after = _rows(a, left_out), _rows(b, left_out)
    rows = tuple(
        Compared.of(
            name,
            judge(after[name].measurement, Reference(measurement=then.measurement), tolerances),
            then.measurement,
            after[name].measurement,
        )
        for name, then in before.items()
        if name in after
    )
    installed = _installed(before), _installed(after)
    changes, same = package_diff(*installed)
    return Comparison(
        a=str(a),
        b=str(b),
        measured_on=_measured_on(before, after),
        changes=changes,
        num_unchanged=same,
        code_known=is_code_known(*installed),
        rows=rows,
        one_sided=tuple(f"{table}[{row}]" for table, row in before.keys() ^ after.keys()),
        left_out=(*_only("A", before, after), *_only("B", after, before)),
    )


def _rows(path: Path, left_out: Callable[[str], object]) -> Rows:
    found = {(result.table, result.row): result for result in latest(read_results(path, left_out))}
    if not found:
        raise ResultError(f"{path}: there is no result in it")
    return found


def _installed(rows: Rows) -> Software:
    """Versions of what can move a training step; of a package with several, all of them."""
    found: dict[str, dict[tuple[str, str | None], tuple[str, Origin | None]]] = {}
    for environment in _environments(rows):
        system = {"python": environment.python, "driver": environment.driver, "cuda": environment.cuda}
        for name, version in (system | environment.packages).items():
            if version is not None and name != "pytest-llmbench":
                origin = (environment.origins or {}).get(name)
                found.setdefault(name, {})[version, origin.digest if origin else None] = (version, origin)
    several = {name: [version_text(*one) for one in code.values()] for name, code in found.items() if len(code) > 1}
    alone = {name: next(iter(code.values())) for name, code in found.items() if len(code) == 1}
    versions = {name: version for name, (version, _) in alone.items()}
    is_known = all(environment.origins is not None for environment in _environments(rows))
    return Software(
        versions | {name: " and ".join(dict.fromkeys(told)) for name, told in several.items()},
        {name: origin for name, (_, origin) in alone.items() if origin is not None} if is_known else None,
    )


def _environments(rows: Rows) -> list[Environment]:
    taken = [result.measurement.environment for result in rows.values()]
    return [environment for environment in taken if environment is not None]


def _measured_on(*sides: Rows) -> str:
    devices = dict.fromkeys(
        environment.cpu if environment.device == "cpu" else environment.device
        for rows in sides
        for environment in _environments(rows)
    )
    return " and ".join(devices)


def _only(side: str, rows: Rows, other: Rows) -> list[str]:
    names = [f"{table}[{row}]" for table, row in rows if (table, row) not in other]
    return [f"only in {side}, {counted(len(names), 'row')}: {', '.join(names)}"] if names else []
