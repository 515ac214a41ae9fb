"""
What a run came to, in sentences: how many rows of which verdict, and which rows nobody ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pytest_llmbench.baselines.file import BaselineError
from pytest_llmbench.baselines.store import BaselineStore, folder_name
from pytest_llmbench.results import Result
from pytest_llmbench.units import seconds

__all__ = ["not_run", "totals"]


def totals(results: Sequence[Result]) -> str:
    """As "3 unchanged, 1 regressed; 2 min 05 s of measuring"."""
    if not results:
        return "no case was measured"
    counts = Counter(result.told for result in results)
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    return f"{told}; {seconds(sum(result.seconds for result in results))} of measuring"


def not_run(store: BaselineStore, results: Iterable[Result]) -> list[str]:
    """
    A sentence for each table of which rows with a baseline are not among *results*, and one for all other tables.

    Looks at baselines of the devices and scales that the results are of.
    """
    ran: dict[str, set[str]] = {}
    folders: dict[str, None] = {}
    for result in results:
        ran.setdefault(result.table, set()).add(result.row)
        if (environment := result.measurement.environment) is not None:
            folders[folder_name(environment, result.measurement.workload.scale)] = None
    sentences, untouched = [], []
    for folder, table, rows in _stored(store, folders):
        missing = [row for row in rows if row not in ran.get(table, ())]
        if table not in ran:
            untouched.append(f"{folder}/{table} ({len(rows)} rows)")
        elif missing:
            sentences.append(f"{table}: not run, of {len(rows)} rows with a baseline: {', '.join(missing)}")
    if untouched:
        sentences.append(f"tables with a baseline of which no row was run: {', '.join(untouched)}")
    return sentences


def _stored(store: BaselineStore, folders: Iterable[str]) -> list[tuple[str, str, list[str]]]:
    """Folder, table and rows of every readable baseline; what cannot be read has failed its own tests."""
    found = []
    for folder in folders:
        for path in sorted((store.root / folder).glob("*.json")):
            try:
                file = store.load(folder, path.stem)
            except BaselineError:
                continue
            if file is not None:
                found.append((folder, path.stem, list(file.rows)))
    return found
