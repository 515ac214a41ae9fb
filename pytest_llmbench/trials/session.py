"""A comparison of two environments from what was asked for to its verdicts, in one process or in several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import msgspec

from pytest_llmbench.host.ci import ci_run
from pytest_llmbench.host.nvml import Gpu
from pytest_llmbench.host.repository import repository_of
from pytest_llmbench.schema.units import counted
from pytest_llmbench.stacks.stack import Stack, open_stack
from pytest_llmbench.store.journal import Asked, Journal, Named
from pytest_llmbench.store.lines import ResultError
from pytest_llmbench.tables.selection import Selected, SelectionError
from pytest_llmbench.trials.comparison import package_diff
from pytest_llmbench.trials.pairs import judge_of, measure
from pytest_llmbench.trials.progress import Progress
from pytest_llmbench.trials.sides import Sides, visible_devices

__all__ = ["Started", "begin", "go_on", "measure_all", "sides_of"]


class Started(NamedTuple):
    """A comparison that can be measured."""

    journal: Journal
    stacks: tuple[Stack, Stack]
    gpus: tuple[Gpu, ...]
    """Empty for the CPU."""
    left_out: tuple[str, ...] = ()
    """Sentences on cases that cannot be measured here."""


def begin(file: Path, asked: Asked, progress: Progress) -> Started:
    """
    Make both environments and start the journal.

    Args:
        asked: whose environments are named, and what they hold not known yet.

    Raises:
        ResultError: *file* is there already, or cannot be written.
        SelectionError: no case fits the GPUs of this machine.
        SetupError: there is no device to measure on.
        StackError: an environment cannot be made or measured in.
    """
    gpus = visible_devices(asked.workload.device)
    selected, left_out = _fitting(asked.selected, len(gpus) if gpus else None)
    stacks = _open(asked, progress)
    asked = msgspec.structs.replace(
        asked,
        selected=selected,
        a=_named(asked.a, stacks[0]),
        b=_named(asked.b, stacks[1]),
        source=msgspec.structs.replace(asked.source, refresh=False),
    )
    return Started(Journal.begin(file, asked), stacks, gpus, left_out)


def go_on(file: Path, progress: Progress) -> Started:
    """
    As `begin`, for a comparison that was broken off.

    Raises:
        ResultError: also if *file* is not of a comparison, or was measured in environments that are no more.
    """
    with ExitStack() as open_:
        journal = open_.enter_context(Journal.resume(file))
        stacks = _open(journal.asked, progress)
        _check_same(journal.asked, stacks)
        gpus = visible_devices(journal.asked.workload.device)
        open_.pop_all()  # it stays open for whoever measures
    return Started(journal, stacks, gpus)


def measure_all(started: Started, progress: Progress) -> None:
    """
    Settle every case that the journal's pairs leave open.

    Raises:
        ResultError: a pair could not be written down.
        SetupError: nothing can be measured.
    """
    asked = started.journal.asked
    judge = judge_of(asked)
    progress.total = len(asked.selected)
    with ExitStack() as open_:
        made: list[Sides] = []

        def sides() -> Sides:
            if not made:
                made.append(open_.enter_context(sides_of(asked, *started.stacks, started.gpus, progress)))
            return made[0]

        for chosen in asked.selected:
            progress.start(chosen.name)
            measure(chosen.name, chosen.case, started.journal, sides, judge=judge, progress=progress)


def sides_of(asked: Asked, a: Stack, b: Stack, gpus: Sequence[Gpu], progress: Progress) -> Sides:
    """Sides that measure in two environments as a comparison was asked for."""
    return Sides(
        a,
        b,
        gpus,
        path=map(Path, asked.path),
        timeout_seconds=asked.timeout_seconds,
        announce=progress.line,
        custom=all(chosen.case.step is not None for chosen in asked.selected),
        shared_gpu=asked.shared_gpu,
        repository=repository_of(Path.cwd(), os.environ),
        ci=ci_run(os.environ),
    )


def _check_same(asked: Asked, stacks: tuple[Stack, Stack]) -> None:
    for letter, named, stack in zip("AB", (asked.a, asked.b), stacks, strict=True):
        changes, _ = package_diff(named, _named(named, stack))
        if changes:
            told = "; ".join(map(str, changes[:5]))
            raise ResultError(f"{letter} ({named.name}) is no longer what was measured: {told}; start a new comparison")


def _named(named: Named, stack: Stack) -> Named:
    """An environment as it is found now."""
    return Named(named.name, stack.packages, stack.origins)


def _open(asked: Asked, progress: Progress) -> tuple[Stack, Stack]:
    # What the judge imports when it is first needed: broken off by Ctrl-C, it could not be imported again to judge
    # what was measured until then.
    import_module("scipy.special")
    return open_stack(asked.a.name, asked.source, progress.say), open_stack(asked.b.name, asked.source, progress.say)


def _fitting(selected: Sequence[Selected], num_gpus: int | None) -> tuple[tuple[Selected, ...], tuple[str, ...]]:
    """The cases that so many GPUs are enough for, and a sentence on the others; None for the CPU, where all fit."""
    if num_gpus is None:
        return tuple(selected), ()
    kept = tuple(one for one in selected if one.case.num_gpus <= num_gpus)
    lost = [one.name for one in selected if one.case.num_gpus > num_gpus]
    if not lost:
        return kept, ()
    told = f"{counted(len(lost), 'row')} need{'s' if len(lost) == 1 else ''} more GPUs than the {num_gpus} visible: {', '.join(lost)}"
    if not kept:
        raise SelectionError(told)
    return kept, (told,)
