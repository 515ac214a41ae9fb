"""
Where the time of a run went: minutes per table, by what a process did.

    python -m benchmarks.times llmbench-results/*.jsonl

Of results for the same row the newest counts. `start and end` is what a row took beyond its process's phases: the lease,
the fork, what it hands over, and its end.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pytest_llmbench.store.results import Result, read_results
from pytest_llmbench.tables import TABLES

PARTS = {
    "build": ("devices", "build"),
    "warm-up": ("warm-up",),
    "rounds": ("rounds",),
    "passes": ("activity", "operators", "calls", "instructions", "canary"),
}
"""Columns, and the phases in each."""
REST = "start and end"
COLUMNS = ("table", "rows", "minutes", *PARTS, REST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    newest: dict[tuple[str, str], Result] = {}
    for path in parser.parse_args().files:
        newest |= {(result.table, result.row): result for result in read_results(path) if result.seconds}
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for table in [name for name in TABLES if any(of == name for of, _ in newest)]:
        print(line(table, [result for (of, _), result in newest.items() if of == table]))
    print(line("all", newest.values()))


def line(name: str, results: Iterable[Result]) -> str:
    results = list(results)
    spent: dict[str, float] = dict.fromkeys((*PARTS, REST), 0.0)
    for result in results:
        phases = Counter(result.measurement.processes[-1].phase_seconds)
        for part, names in PARTS.items():
            spent[part] += sum(phases[phase] for phase in names)
        spent[REST] += (result.seconds or 0.0) - sum(phases.values())
    minutes = sum(result.seconds or 0.0 for result in results) / 60
    return (
        f"| {name} | {len(results)} | {minutes:.1f} | "
        + " | ".join(f"{spent[part] / 60:.1f}" for part in (*PARTS, REST))
        + " |"
    )


if __name__ == "__main__":
    main()
