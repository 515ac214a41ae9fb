"""
What the product says of a plant, and of two processes with nothing planted.

Judged by `judge.compare.judge`, as against a stored baseline, and by `judge.pair.judge_pair`, as in `llmbench ab`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from benchmarks.plants.catalogue import ROWS, Kind, Plant, Row
from benchmarks.plants.overlay import PlantError, make_overlay
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.sentence import FOLDERS, failure_sentence
from pytest_llmbench.judge.verdict import RowVerdict, Status
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.stack import Stack

__all__ = ["Finding", "Meter", "found", "is_alarm", "verdicts"]

_WORKLOAD = Workload(scale="smoke", device="cpu", samples=4)
_TIMEOUT_SECONDS = 300.0
_CAUGHT: tuple[Status, ...] = ("regressed", "unmeasured")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One plant, and what was said of it."""

    name: str
    kind: Kind
    row: Row
    statuses: tuple[Status, ...]
    """Against a stored baseline, and in a pair."""
    caught: bool
    caught_within: bool
    """As an edit that leaves the version as it is: within one environment counts have to be equal."""
    placed: bool
    """Whether the first line of both failures has one of the plant's places."""
    first_line: str
    """Against a stored baseline."""
    held_out: bool = False
    """As of the plant."""


class Meter:
    """Measures rows in one environment, a fresh process each, from one warm server."""

    def __init__(self, stack: Stack, overlay: Path | None = None) -> None:
        path = () if overlay is None else (overlay,)
        self._executor = LocalExecutor(
            timeout_seconds=_TIMEOUT_SECONDS, announce=print, python=stack.python, environ=stack.environ(path)
        )

    @classmethod
    def of(cls, plant: Plant, stack: Stack, folder: Path) -> Self:
        """
        In an environment with the plant; the overlay is made in *folder*.

        Raises:
            PlantError: it cannot be planted.
        """
        return cls(stack, make_overlay(plant, folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.close()

    def measure(self, row: Row) -> Measurement:
        """One process of a row."""
        return self._executor.run(Request(case=ROWS[row], workload=_WORKLOAD), lambda _: None)


def verdicts(before: Measurement, now: Measurement) -> tuple[RowVerdict, RowVerdict]:
    """Against a stored baseline, and in a pair."""
    return judge(now, Reference(measurement=before)), judge_pair(before, now)


def found(plant: Plant, before: Measurement, now: Measurement) -> Finding:
    """
    Whether the plant was caught, and whether its place was named.

    Raises:
        PlantError: the row does not run with it, so that nothing can be said.
    """
    if now.outcome in ("crashed", "timeout"):
        raise PlantError(f"plant {plant.name}: row {plant.row} {now.outcome} with {plant.file}: {now.reason}")
    both = verdicts(before, now)
    lines = [failure_sentence(plant.row, verdict).partition("\n")[0] for verdict in both]
    caught = all(_is_caught(plant, verdict) for verdict in both)
    within = verdicts(before, msgspec.structs.replace(now, environment=before.environment))
    places = {told for place in plant.places for told in (place, FOLDERS.sub(".../", place))}
    placed = caught and all(any(place in line for place in places) for line in lines)
    return Finding(
        name=plant.name,
        kind=plant.kind,
        row=plant.row,
        statuses=tuple(verdict.status for verdict in both),
        caught=caught,
        caught_within=all(_is_caught(plant, verdict) for verdict in within),
        placed=placed,
        first_line=lines[0],
        held_out=plant.held_out,
    )


def is_alarm(both: Sequence[RowVerdict]) -> bool:
    """Whether a row with nothing planted fails or is called improved."""
    return any(verdict.failed or verdict.status == "improved" for verdict in both)


def _is_caught(plant: Plant, verdict: RowVerdict) -> bool:
    if plant.kind == "less work" and verdict.status == "not comparable":
        return True
    return verdict.status in _CAUGHT
