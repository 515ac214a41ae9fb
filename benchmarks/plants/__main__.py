"""
How many of the regressions that people ship the product catches without a GPU, and whether it names their place.

    python -m benchmarks.plants

Each plant of `catalogue.py` is one edit in an overlay of an installed library, whose version is raised: the limits
across environments apply. Its row is measured at smoke scale by one process there and by one in the unchanged
environment, and judged by the functions that `pytest --llmbench` and `llmbench ab` call (`judge.compare.judge` and
`judge.pair.judge_pair`): counts, bytes and losses repeat themselves, so that one process settles them.

A plant is caught if both call the row regressed or unmeasured (an invalid process is), or not comparable where it
does less work. Its place is right if the first line of both failures names one of the places that the catalogue
gives. The last column holds the same processes to the limits within one environment, as after an edit that leaves the
version as it is.

A row with nothing planted is held against another process of the same environment, where limits are tightest: it is a
false alarm if it fails or is called improved.

Exit code 1: fewer than 95 % caught, fewer than 90 % with the right place, or a false alarm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import get_args

import msgspec

from benchmarks.plants.catalogue import PLANTS, Kind, Plant, Row
from benchmarks.plants.overlay import PlantError
from benchmarks.plants.trial import Finding, Meter, found, is_alarm, verdicts
from pytest_llmbench.judge.sentence import failure_sentence
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.stacks.stack import CURRENT, Source, Stack, open_stack

CAUGHT_AIM, PLACED_AIM = 0.95, 0.90


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run found."""

    findings: tuple[Finding, ...]
    unchanged: int
    """Pairs with nothing planted."""
    alarms: tuple[str, ...]
    """First line of each that fails or is called improved."""

    @property
    def reached(self) -> bool:
        """Whether the aims are."""
        planted = len(self.findings)
        caught, placed = (sum(getattr(one, name) for one in self.findings) for name in ("caught", "placed"))
        return not self.alarms and caught >= CAUGHT_AIM * planted and placed >= PLACED_AIM * planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", action="append", choices=[plant.name for plant in PLANTS])
    parser.add_argument("--unchanged", type=int, default=100, metavar="N", help="pairs with nothing planted")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="plants that are measured at once")
    parser.add_argument("--results", type=Path, metavar="FILE", help="what was found, as JSON")
    given = parser.parse_args()
    started = time.monotonic()
    stack = open_stack(CURRENT, Source(), _say)
    plants = [plant for plant in PLANTS if not given.only or plant.name in given.only]
    try:
        befores, alarms = unchanged(
            stack, list(dict.fromkeys(plant.row for plant in plants)), given.unchanged, given.jobs
        )
        findings = tuple(planted(stack, plants, befores, given.jobs))
    except PlantError as error:
        sys.exit(str(error))
    results = Results(findings=findings, unchanged=given.unchanged, alarms=alarms)
    print("\n".join(told(results)))
    print(f"\n{time.monotonic() - started:.0f} s")
    if given.results is not None:
        given.results.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    sys.exit(not results.reached)


def unchanged(
    stack: Stack, rows: Sequence[Row], pairs: int, jobs: int
) -> tuple[dict[Row, Measurement], tuple[str, ...]]:
    """
    A measurement of each row, and the first lines of false alarms.

    Args:
        pairs: of neighbouring processes, spread over the rows.
    """
    befores: dict[Row, Measurement] = {}
    alarms: list[str] = []

    def measure(row: Row, share: int) -> None:
        with Meter(stack) as meter:
            before = befores[row] = meter.measure(row)
            for turn in range(share):
                _say(f"unchanged {row}: {turn} of {share} pairs, {len(alarms)} false alarms")
                now = meter.measure(row)
                both = verdicts(before, now)
                if is_alarm(both):
                    alarms.append(failure_sentence(row, both[0]).partition("\n")[0])
                before = now

    with ThreadPoolExecutor(jobs) as pool:
        shares = [pairs // len(rows) + (number < pairs % len(rows)) for number in range(len(rows))]
        for _ in pool.map(measure, rows, shares):
            pass
    for row, before in befores.items():
        if before.outcome != "ok":
            raise PlantError(f"row {row} does not run: {before.outcome}: {before.reason}")
    return befores, tuple(alarms)


def planted(stack: Stack, plants: Sequence[Plant], befores: dict[Row, Measurement], jobs: int) -> Iterator[Finding]:
    """
    What was found of each plant, in their order.

    Raises:
        PlantError: one does not fit the installed libraries, or its row does not run with it.
    """

    def measure(plant: Plant) -> Finding:
        with (
            tempfile.TemporaryDirectory(prefix="llmbench-plant-") as folder,
            Meter.of(plant, stack, Path(folder)) as meter,
        ):
            return found(plant, befores[plant.row], meter.measure(plant.row))

    with ThreadPoolExecutor(jobs) as pool:
        coming = {pool.submit(measure, plant): plant for plant in plants}
        try:
            for number, future in enumerate(as_completed(coming), 1):
                one = future.result()
                told = "caught" if one.caught else "MISSED"
                _say("")
                print(
                    f"{number}/{len(plants)} {told}{'' if one.placed else ', place wrong'}: {one.name}: {one.first_line}"
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        yield from (future.result() for future in coming)


def told(results: Results) -> Iterator[str]:
    """The table in Markdown, then what was missed."""
    yield "\n| kind | planted | caught | missed | place right | caught if the version stays |\n|---|---|---|---|---|---|"
    for kind in get_args(Kind):
        if of_kind := [one for one in results.findings if one.kind == kind]:
            yield _line(kind, of_kind)
    yield _line("**all**", results.findings)
    if held_out := [one for one in results.findings if one.held_out]:
        yield _line("of these held out", held_out)
    yield f"\n{results.unchanged} unchanged pairs: {len(results.alarms)} false alarms"
    yield from results.alarms
    for one in results.findings:
        if not one.placed:
            yield f"{one.name} {'misplaced' if one.caught else 'missed'} ({', '.join(one.statuses)}): {one.first_line}"


def _line(name: str, findings: Sequence[Finding]) -> str:
    fields = ("caught", "placed", "caught_within")
    caught, placed, within = (sum(getattr(one, field) for one in findings) for field in fields)
    return f"| {name} | {len(findings)} | {caught} | {len(findings) - caught} | {placed} | {within} |"


def _say(text: str) -> None:
    """Progress on one line, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
