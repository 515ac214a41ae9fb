"""
What a run came to, in sentences: how many rows of which verdict, and which rows nobody ran.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from pytest_llmbench.judge.suite import global_shift
from pytest_llmbench.reports.table import ORDER
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.schema.text import printable
from pytest_llmbench.schema.units import counted, percent, seconds
from pytest_llmbench.store.baselines import Baselines, folder_name
from pytest_llmbench.store.results import Result
from pytest_llmbench.tables.renamed import row_of_today

__all__ = ["common_shifts", "not_run", "totals", "unavailable", "undecided"]


_LOOPS = ("", "-step", "-trainer")
"""What the name of a stored row may end with, beyond that of its test."""


def totals(results: Sequence[Result]) -> str:
    """As "3 unchanged, 1 regressed; 2 min 05 s of measuring"."""
    if not results:
        return "no case was measured"
    counts = Counter(result.told for result in results)
    told = ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])
    return f"{told}; {seconds(sum(result.seconds or 0.0 for result in results))} of measuring"


def not_run(store: Baselines, results: Iterable[Result]) -> list[str]:
    """
    A sentence for each table of which rows with a baseline are not among *results*, and one for all other tables.

    Looks at baselines of the devices and scales that the results are of.
    """
    results = tuple(results)
    ran: dict[str, set[str]] = {}
    for result in results:
        ran.setdefault(result.table, set()).add(result.row)
    sentences, untouched = [], []
    for folder, file in itertools.chain.from_iterable(map(store.files, _folders(results))):
        table, rows = file.table, file.rows
        missing = [printable(row, lines=False) for row in rows if row not in ran.get(table, ())]
        if table not in ran:
            untouched.append(f"{folder}/{table} ({counted(len(rows), 'row')})")
        elif missing:
            sentences.append(f"{table}: not run, of {counted(len(rows), 'row')} with a baseline: {', '.join(missing)}")
    if untouched:
        sentences.append(f"tables with a baseline of which no row was run: {', '.join(untouched)}")
    return sentences


def gone(
    store: Baselines, results: Iterable[Result], collected: Iterable[tuple[str, str]], *, everywhere: bool
) -> list[str]:
    """
    Rows with a baseline, on the devices and at the scales of *results*, that no test has.

    Args:
        store: the baselines.
        results: of this run.
        collected: table and row of every test there is, those included that were not chosen.
        everywhere: also of tables of which no row was collected.
    """
    results = tuple(results)
    known: dict[str, set[str]] = {}
    for table, row in collected:
        known.setdefault(table, set()).update(row_of_today(table, f"{row}{loop}") for loop in _LOOPS)
    for result in results:
        known.setdefault(result.table, set()).add(result.row)
    return [
        printable(f"{file.table}[{row}]", lines=False)
        for _, file in itertools.chain.from_iterable(map(store.files, _folders(results)))
        if everywhere or file.table in known
        for row in file.rows
        if row not in known.get(file.table, ())
    ]


def under_other_names(store: Baselines, results: Iterable[Result], tests: Iterable[str]) -> list[str]:
    """
    Rows with a baseline whose tests ran and gave results of other rows only.

    Args:
        store: the baselines.
        results: of this run.
        tests: table and row of each test that ran, as `Result.name`.
    """
    results = tuple(results)
    judged = {result.name for result in results}
    files = itertools.chain.from_iterable(map(store.files, _folders(results)))
    stored = {f"{file.table}[{row}]" for _, file in files for row in file.rows}
    return [name for name in tests if name in stored and not judged & {f"{name[:-1]}{loop}]" for loop in _LOOPS}]


def _folders(results: Iterable[Result]) -> dict[str, None]:
    """Folders of the devices and scales that results are of."""
    measured = (result.measurement for result in results)
    return {folder_name(one.environment, one.workload.scale): None for one in measured if one.environment is not None}


def common_shifts(results: Iterable[Result]) -> list[str]:
    """A sentence for each speed by which the rows as a whole have moved, as a slower GPU or a library moves them all."""
    verdicts = [result.verdict for result in results]
    found = (global_shift(verdicts, metric.name) for metric in METRICS.values() if metric.gate == "statistical")
    return [
        f"{shift.metric} of all {shift.rows} rows moved by {percent(shift.change)} in the median "
        f"({percent(shift.interval[0])} to {percent(shift.interval[1])}): look for one cause"
        for shift in found
        if shift is not None and shift.matters
    ]


def undecided(results: Iterable[Result]) -> list[str]:
    """One sentence that names the rows of which noise leaves open whether they are worse."""
    rows = [result.name for result in results if result.verdict.status == "undecided"]
    if not rows:
        return []
    return [f"noise leaves open whether they moved, which does not fail: {', '.join(rows)}"]


def unavailable(results: Iterable[Result]) -> list[str]:
    """A sentence for each reason why rows could not be measured here, such as a library that is not installed."""
    lacking = Counter(result.measurement.reason for result in results if result.measurement.outcome == "unavailable")
    return [f"unavailable, {counted(count, 'row')}: {reason}" for reason, count in lacking.items()]
