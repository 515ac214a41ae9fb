"""
The top of the report: how many rows of which verdict, what failed, how far everything moved, what is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from pytest_llmbench.judge.comparable import environment_changes
from pytest_llmbench.reports.html.charts import Axis, axis
from pytest_llmbench.reports.html.held import Held
from pytest_llmbench.reports.html.tables import TableView, anchor
from pytest_llmbench.reports.table import ORDER, SYMBOLS, verdict_text
from pytest_llmbench.schema.environment import Environment, version_text
from pytest_llmbench.schema.metrics import METRICS, headlines, title
from pytest_llmbench.schema.units import gib, percent

__all__ = ["Count", "EnvironmentView", "Failure", "Movement", "counts", "environments", "failures", "movements"]


class Count(msgspec.Struct, frozen=True):
    """How many rows have one status."""

    status: str
    symbol: str
    rows: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A row that failed, as it is named at the top."""

    anchor: str
    name: str
    status: str
    symbol: str
    told: str


class Dot(msgspec.Struct, frozen=True):
    """One row on the line of a metric."""

    at: float
    level: int
    """How many others lie below it at nearly the same place."""
    status: str
    anchor: str
    told: str


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """How far one metric moved in every row."""

    label: str
    better: str
    axis: Axis
    zero: float
    dots: tuple[Dot, ...]
    levels: int
    step: float
    """Pixels from level to level: many rows at one place stand closer, so that the line stays low."""


class EnvironmentView(msgspec.Struct, frozen=True, kw_only=True):
    """Where some of the rows were measured, beside where their baselines were."""

    rows: int
    compared: bool
    changed: tuple[str, ...]
    lines: tuple[tuple[str, str, str, bool], ...]
    """Name, baseline, now, and whether the two differ."""


def counts(tables: Iterable[TableView]) -> tuple[Count, ...]:
    """By status, in the order in which a reader has to act."""
    found = Counter(row.status for table in tables for row in table.rows)
    return tuple(Count(status, SYMBOLS[status], found[status]) for status in ORDER if found[status])


def failures(rows: Iterable[Held]) -> tuple[Failure, ...]:
    """The rows whose test failed, regressed ones first."""
    failed = [row.result for row in rows if row.result.decision == "fail"]
    failed.sort(key=lambda result: ORDER.index(result.told))
    return tuple(
        Failure(
            anchor=anchor(result.table, result.row),
            name=result.name,
            status=result.told,
            symbol=SYMBOLS[result.told],
            told=result.why.partition("\n")[0],
        )
        for result in failed
    )


def movements(rows: Sequence[Held]) -> tuple[Movement, ...]:
    """Each headline metric as a line on which every judged row is a dot; none where nothing was judged."""
    found = (_movement(metric, rows) for metric in headlines())
    return tuple(movement for movement in found if movement is not None)


def _movement(metric: str, rows: Sequence[Held]) -> Movement | None:
    moved = [
        (verdict.change, row.result, verdict_text(verdict))
        for row in rows
        for verdict in row.result.verdict.metrics
        if verdict.metric == metric and verdict.change is not None
    ]
    if not moved:
        return None
    on = axis([change for change, _, _ in moved] + [-0.01, 0.01], scale=0.01)
    dots: list[Dot] = []
    for change, result, status in sorted(moved, key=lambda one: one[0]):
        at = on.at(change)
        near = {dot.level for dot in dots if abs(dot.at - at) < 1.2}
        level = next(number for number in range(len(dots) + 1) if number not in near)
        told = f"{result.table}[{result.row}] {percent(change)}, {status}"
        dots.append(Dot(at, level, status, anchor(result.table, result.row), told))
    levels = max(dot.level for dot in dots) + 1
    return Movement(
        label=title(metric),
        better=METRICS[metric].better,
        axis=on,
        zero=on.at(0.0),
        dots=tuple(dots),
        levels=levels,
        step=round(min(9.0, 90 / levels), 2),
    )


def environments(rows: Iterable[Held]) -> tuple[EnvironmentView, ...]:
    """One for each pair of environments, those of most rows first."""
    sizes: dict[bytes, int] = {}
    pairs: dict[bytes, tuple[Environment | None, Environment]] = {}
    for row in rows:
        if (now := row.result.measurement.environment) is not None:
            before = row.before.environment if row.before else None
            key = msgspec.json.encode((before, now))
            pairs[key], sizes[key] = (before, now), sizes.get(key, 0) + 1
    views = [_environment(*pair, sizes[key]) for key, pair in pairs.items()]
    return tuple(sorted(views, key=lambda view: -view.rows))


def _environment(before: Environment | None, now: Environment, rows: int) -> EnvironmentView:
    new, old = _described(now), _described(before) if before else {}
    names = [*new, *(name for name in old if name not in new)]
    lines = tuple(
        (name, old.get(name, ""), new.get(name, ""), before is not None and old.get(name) != new.get(name))
        for name in names
    )
    changed = tuple(map(str, environment_changes(before, now)[0]))
    return EnvironmentView(rows=rows, compared=before is not None, changed=changed, lines=lines)


def _described(environment: Environment) -> dict[str, str]:
    memory = environment.device_memory_bytes
    limit = environment.power_limit_watts
    origins = environment.origins or {}
    facts = {
        "GPU": environment.device + (f" x {environment.num_devices}" if environment.num_devices > 1 else ""),
        "GPU memory": f"{gib(memory)} GiB" if memory else None,
        "driver": environment.driver,
        "CUDA": environment.cuda,
        "power limit": f"{limit:g} W" if limit else None,
        "CPU": f"{environment.cpu} x {environment.num_cpus}",
        "system": environment.system,
        "Python": environment.python,
        **environment.allocator,
        **{name: version_text(version, origins.get(name)) for name, version in environment.packages.items()},
        "repository under test": None if environment.repository is None else str(environment.repository),
        "CI run": None if environment.ci is None else str(environment.ci),
    }
    return {name: value for name, value in facts.items() if value is not None}
