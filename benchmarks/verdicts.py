"""
How often verdicts are wrong: false alarms and missed slow-downs of our judge, and of rules in use today.

    python -m benchmarks.verdicts

Nights of a hundred rows are simulated, see `benchmarks.nights`. Processes of one session have a
standard deviation of 0.25, 0.5, 1 or 2 % in the median over the rows, which differ among each other
by a third; with heavy tails one process in twenty is slower by an exponential 2 %; sessions differ
by 0.6 % for all rows alike and 0.1 % for each; steps by 0.5 %, 50 of them a process. Every row was
calibrated before by five sessions of four processes, and only that is known of its noise.

Ours is the trial that the commands run, `trials.trial.run`, with the plans that they run by default. Its
observations are drawn, and judged by the functions of `judge.decision`, `judge.statistics` and `judge.noise`
that `judge` and `judge_pair` call; at the end these two judge simulated measurements themselves, and have to
agree.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import stats

from benchmarks.nights import (
    PLAIN,
    ROWS,
    SHIFTS,
    TAILS,
    Night,
    Rule,
    Truths,
    World,
    mann_whitney,
    nvbench_interval,
    of_minimum,
    threshold,
)
from pytest_llmbench.judge.compare import Reference, judge
from pytest_llmbench.judge.decision import ALPHA, PAIRS, SESSIONS, Design, decide, difference
from pytest_llmbench.judge.noise import pooled
from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.plan import Kind, Plan, Settled, Wanted
from pytest_llmbench.judge.statistics import chance_of_more
from pytest_llmbench.judge.verdict import MetricVerdict, RowVerdict
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import Measurement, Process, Round
from pytest_llmbench.schema.metrics import METRICS, Metric, Noise, Value, statistical
from pytest_llmbench.schema.units import percent
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.trials.trial import PAIR, PAIRED, PROCESS, STORED, run

T = TypeVar("T")

ONE: Kind[float] = Kind(PROCESS.word, lambda _: ("ok",), PROCESS.failures, PROCESS.repeats)
TWO: Kind[tuple[float, float]] = Kind(PAIR.word, lambda _: ("ok",), PAIR.failures, PAIR.repeats)


def row_verdict(
    metric: Metric, before: Sequence[float], now: Sequence[float], noise: Noise, *, design: Design
) -> RowVerdict:
    """What `judge` makes of a row that has this speed and no other."""
    harm = difference(design, before, now, noise)
    decision = decide(harm, metric, ALPHA / len(statistical()))
    p_value = chance_of_more(harm)
    speed = MetricVerdict(metric=metric.name, status=decision.status, p_value=p_value, gates=True, reason="")
    return RowVerdict(status=decision.status, metrics=(speed,), reason="")


def settled(
    plan: Plan, kind: Kind[T], judge: Callable[[Sequence[T]], RowVerdict], more: Callable[[Wanted], Iterable[T]]
) -> Settled[T]:
    """What the product's trial makes of a row that is drawn."""
    found = run(plan, kind, judge, more)
    assert isinstance(found, Settled)
    return found


def stored(metric: Metric, plan: Plan, baseline: int = 1) -> Rule:
    """Ours against a stored baseline of so many processes: `pytest --llmbench`."""

    def rule(night: Night) -> tuple[Truths, float]:
        today = night.session()
        before = night.processes(night.session(), baseline, now=False).tolist()
        noise = night.noise(metric)
        failed, spent = np.zeros(ROWS, bool), 0
        for row in range(ROWS):

            def judge(now: Sequence[float], row: int = row) -> RowVerdict:
                return row_verdict(metric, before[row], now, noise[row], design=SESSIONS)

            def more(wanted: Wanted, row: int = row) -> list[float]:
                return [float(log) for log in night.processes(today, wanted.count, now=True, rows=[row])[0]]

            found = settled(plan, ONE, judge, more)
            failed[row], spent = found.verdict.failed, spent + len(found.taken)
        return failed, spent / ROWS

    return rule


def pairs(metric: Metric, plan: Plan) -> Rule:
    """Ours in interleaved pairs: `llmbench ab`."""

    def rule(night: Night) -> tuple[Truths, float]:
        today = night.session()
        noise = night.noise(metric)
        failed, spent = np.zeros(ROWS, bool), 0
        for row in range(ROWS):

            def judge(taken: Sequence[tuple[float, float]], row: int = row) -> RowVerdict:
                before, now = zip(*taken, strict=True)
                return row_verdict(metric, before, now, noise[row], design=PAIRS)

            def more(wanted: Wanted, row: int = row) -> Iterable[tuple[float, float]]:
                sides = [night.processes(today, wanted.count, now=now, rows=[row])[0].tolist() for now in (False, True)]
                return zip(*sides, strict=True)

            found = settled(plan, TWO, judge, more)
            failed[row], spent = found.verdict.failed, spent + 2 * len(found.taken)
        return failed, spent / ROWS

    return rule


class Rate(NamedTuple):
    """A share, with its 95 % Wilson interval."""

    hits: int
    trials: int

    def __str__(self) -> str:
        low, high = stats.binomtest(self.hits, self.trials).proportion_ci(method="wilson")
        return f"{self.hits / self.trials:.3f} ({low:.3f}-{high:.3f})"


class Entry(NamedTuple):
    """One rule as a line of the tables."""

    name: str
    rule: Rule
    nights: int
    """Nights without a difference; a third as many for each slow-down."""


def false_alarms(entry: Entry, world: World, process_sd: float) -> tuple[Rate, Rate, float]:
    """Nights with a false alarm, rows with one, and the processes that a row took."""
    rng = np.random.default_rng([len(entry.name), len(world.name), round(process_sd * 1e5)])
    counts, processes = [], []
    for _ in range(entry.nights):
        called, spent = entry.rule(Night(rng, world, process_sd, np.zeros(ROWS)))
        counts.append(int(called.sum()))
        processes.append(spent)
    nights = Rate(sum(count > 0 for count in counts), entry.nights)
    return nights, Rate(sum(counts), entry.nights * ROWS), sum(processes) / len(processes)


def found(entry: Entry, world: World, process_sd: float, slow_down: float, slow_rows: int = 5) -> Rate:
    """Rows that are slower by so much and are called so, in nights where five of a hundred are."""
    rng = np.random.default_rng([len(entry.name), len(world.name), round(process_sd * 1e5), round(slow_down * 1e4)])
    slow = np.zeros(ROWS)
    slow[:slow_rows] = math.log1p(slow_down)
    nights = max(1, entry.nights // 3)
    hits = sum(int(entry.rule(Night(rng, world, process_sd, slow))[0][:slow_rows].sum()) for _ in range(nights))
    return Rate(hits, nights * slow_rows)


class Table(NamedTuple):
    """Rules beside each other, at one noise."""

    title: str
    entries: tuple[Entry, ...]
    process_sd: float
    slow_downs: tuple[float, ...]

    @property
    def questions(self) -> list[tuple[World, float]]:
        """World and slow-down of each column; a slow-down of 0 asks for false alarms."""
        asked = [(world, 0.0) for world in (PLAIN, TAILS, SHIFTS)]
        return [*asked, *((PLAIN, one) for one in self.slow_downs), (SHIFTS, self.slow_downs[1])]

    def lines(self, answers: Sequence[Sequence[tuple[Rate, float]]]) -> Iterator[str]:
        """The table in Markdown, from the answers of each entry to each question."""
        yield f"\n### {self.title}, standard deviation of processes {self.process_sd * 100:g} %\n"
        told = [
            f"{percent(slow)} found" if slow else f"nights with a false alarm: {world.name}"
            for world, slow in self.questions
        ]
        told[-1] += f": {SHIFTS.name}"
        header = ["rule", "processes a row", *told]
        yield f"| {' | '.join(header)} |\n|{'---|' * len(header)}"
        for entry, rates in zip(self.entries, answers, strict=True):
            yield f"| {' | '.join([entry.name, f'{rates[0][1]:.1f}', *(str(rate) for rate, _ in rates)])} |"


def tables(nights: int) -> list[Table]:
    """What is simulated, with so many nights for each false-alarm rate of ours."""
    wall, busy = METRICS["samples_per_second"], METRICS["device_busy_seconds_per_sample"]
    of_wall = Plan(max_processes=19, looks=2, screen=3)
    of_busy = Plan(max_processes=36, looks=2, screen=6)
    others = (
        Entry("1 against 1, limit 5 %", threshold(0.05), 3 * nights),
        Entry("1 against 1, limit 7 %", threshold(0.07), 3 * nights),
        Entry("pytest-benchmark min:5%", of_minimum, nights),
        Entry("Mann-Whitney, steps of 5 against 5", mann_whitney, max(1, nights // 20)),
        Entry("nvbench intervals, 1 against 1", nvbench_interval, nights),
    )
    of_wall_time = (
        *others,
        *_ours(wall, nights),
        Entry("3 and up to 16 more, against 10 stored", stored(wall, of_wall, 10), nights),
        Entry("llmbench ab --pairs 3 --max-pairs 19", pairs(wall, of_wall), nights),
    )
    of_busy_time = (
        *_ours(busy, nights),
        Entry("6 and up to 30 more, against 10 stored", stored(busy, of_busy, 10), nights),
        Entry("llmbench ab --pairs 6 --max-pairs 36", pairs(busy, of_busy), nights),
    )
    return [
        *(Table("Wall time", of_wall_time, sd, (0.01, 0.02, 0.03, 0.05)) for sd in (0.0025, 0.005, 0.01, 0.02)),
        *(Table("Device-busy time", of_busy_time, sd, (0.005, 0.01, 0.02)) for sd in (0.001, 0.003)),
    ]


def _ours(metric: Metric, nights: int) -> tuple[Entry, ...]:
    return (
        Entry("one process, against 1 stored", stored(metric, Plan()), nights),
        Entry("**pytest --llmbench**, against 1 stored", stored(metric, STORED), nights),
        Entry("pytest --llmbench, against 10 stored", stored(metric, STORED, 10), nights),
        Entry("**llmbench ab**", pairs(metric, PAIRED), nights),
    )


def answer(nights: int, place: tuple[int, int, int]) -> tuple[Rate, float]:
    """The rate in a column of an entry of a table, and the processes that a row took there."""
    table = tables(nights)[place[0]]
    entry, (world, slow) = table.entries[place[1]], table.questions[place[2]]
    if slow:
        return found(entry, world, table.process_sd, slow), 0.0
    alarms, _, spent = false_alarms(entry, world, table.process_sd)
    return alarms, spent


def measured(metric: str, logs: Sequence[float]) -> Measurement:
    """A measurement of processes with these logarithms of seconds per sample."""
    environment = Environment(
        device="NVIDIA H200",
        num_devices=1,
        device_memory_bytes=None,
        driver=None,
        cuda=None,
        power_limit_watts=None,
        allocator={},
        python="3.12",
        cpu="a CPU",
        num_cpus=16,
        system="Linux",
        packages={},
    )
    value: Callable[[float], Value] = math.exp if metric.startswith("device") else lambda log: math.exp(-log)
    common: dict[str, Value] = {"host_bound": 0.95, "kernels_per_sample": 7587, "peak_reserved_bytes": (2**34,)}
    return Measurement(
        case=Case(model="qwen-7b-chat"),
        workload=Workload(),
        environment=environment,
        processes=tuple(
            Process(outcome="ok", metrics={**common, metric: value(log)}, rounds=(Round(math.exp(log), 1, 1),))
            for log in logs
        ),
        measured_at="",
    )


def agreement(metric: Metric, trials: int = 500) -> int:
    """How many simulated rows `judge` and `judge_pair` give the verdict that `row_verdict` gives."""
    rng = np.random.default_rng(4)
    agreed = 0
    for _ in range(trials):
        noise = pooled([rng.normal(0, 0.004, 4).tolist() for _ in range(3)], metric.prior["device-bound"])
        before = rng.normal(0, 0.004, 4).tolist()
        now = rng.normal(rng.normal(0, 0.02), 0.004, 4).tolist()
        sides = measured(metric.name, before), measured(metric.name, now)
        noises = {metric.name: noise}
        verdicts = (
            (judge(sides[1], Reference(measurement=sides[0], noise=noises)), SESSIONS),
            (judge_pair(*sides, noise=noises), PAIRS),
        )
        for verdict, design in verdicts:
            ours = row_verdict(metric, before, now, noise, design=design)
            agreed += (verdict.status, verdict.failed) == (ours.status, ours.failed)
    return agreed


def seconds_for_rows(rows: int = 96) -> float:
    """To judge so many rows of two speeds and what else they have, once scipy is imported."""
    rng = np.random.default_rng(5)
    sides = [
        [measured("device_busy_seconds_per_sample", rng.normal(0, 0.01, 4).tolist()) for _ in range(rows)] for _ in "ab"
    ]
    started = time.perf_counter()
    for before, now in zip(*sides, strict=True):
        judge(now, Reference(measurement=before))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=400, help="of a hundred rows, for each false-alarm rate of ours")
    nights = parser.parse_args().nights
    started = time.perf_counter()
    asked = tables(nights)
    places = [
        [[(number, entry, column) for column in range(len(table.questions))] for entry in range(len(table.entries))]
        for number, table in enumerate(asked)
    ]
    with ProcessPoolExecutor() as pool:
        coming = [[[pool.submit(answer, nights, place) for place in row] for row in rows] for rows in places]
        for table, rows in zip(asked, coming, strict=True):
            for line in table.lines([[future.result() for future in row] for row in rows]):
                print(line, flush=True)
    wall, busy = METRICS["samples_per_second"], METRICS["device_busy_seconds_per_sample"]
    print(f"\njudge and judge_pair agree with the simulated judge in {agreement(wall) + agreement(busy)} of 2000 rows")
    seconds_for_rows(1)  # imports scipy
    print(
        f"judging 96 rows takes {seconds_for_rows():.3f} s; the tables took {time.perf_counter() - started:.0f} s on all cores"
    )


if __name__ == "__main__":
    main()
