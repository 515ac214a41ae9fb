"""
What the judge finds of slow-downs and allocations that were planted on purpose, and what it finds where none was.

    python -m benchmarks.detection --model qwen-1_8b-chat --samples 8 --verdicts 8 --pairs 2

Everything is measured in blocks: one process with nothing planted and one for each planted amount, in an order that is
drawn anew for each block. A verdict holds so many blocks' processes with a plant against those without, in pairs, as
`llmbench ab` does; verdicts on one amount share no process. `none` is a process with nothing planted held against
another: it must never be regressed or improved.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.setting import case_of, parser, save, workload_of
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.measurement import Measurement, Process, joined
from pytest_llmbench.protocol import Request
from pytest_llmbench.workload import Workload, parse_injection

PLANTS = {
    "device": ("device=0.5%", "device=1%", "device=2%", "device=3%", "device=5%"),
    "host": ("host=0.5%", "host=1%", "host=2%", "host=3%", "host=5%"),
    "memory": tuple(
        f"{kind}={mib}MiB" for kind in ("memory", "memory-idle", "memory-outside") for mib in (1, 16, 64, 256)
    ),
}
NOTHING, REFERENCE = "none", "reference"
SPEEDS = ("samples_per_second", "device_busy_seconds_per_sample")


def main() -> None:
    arguments = parser(__doc__, verdicts=8, pairs=2, batch_size=1, max_length=512)
    arguments.add_argument("--plant", choices=tuple(PLANTS), action="append", help="default: device and host")
    given = arguments.parse_args()
    plants = [plant for kind in given.plant or ("device", "host") for plant in PLANTS[kind]]
    case = case_of(given, batch_size=given.batch_size, max_length=given.max_length)
    order = random.Random(1)
    taken: dict[str, list[Measurement]] = {name: [] for name in (REFERENCE, NOTHING, *plants)}
    with LocalExecutor(timeout_seconds=600, announce=print) as executor:
        for _ in range(given.verdicts * given.pairs):
            for name in order.sample(list(taken), len(taken)):
                request = Request(case=case, workload=planted(workload_of(given), name))
                taken[name].append(executor.run(request, lambda _: None))
    verdicts = {name: list(judged(taken[REFERENCE], taken[name], given.pairs)) for name in taken if name != REFERENCE}
    for name, found in verdicts.items():
        print(told(name, found))
    for metric in SPEEDS:
        print(f"{metric}: sd between processes {spread(taken[REFERENCE], metric)}")
    save("detection", {name: [msgspec.to_builtins(one) for one in found] for name, found in verdicts.items()})


def planted(workload: Workload, name: str) -> Workload:
    injection = None if name in (NOTHING, REFERENCE) else parse_injection(name)
    return msgspec.structs.replace(workload, injection=injection)


def judged(without: Sequence[Measurement], planted: Sequence[Measurement], pairs: int) -> Iterable[RowVerdict]:
    """Verdicts on as many pairs each."""
    for start in range(0, len(planted), pairs):
        a, b = (together(side[start : start + pairs]) for side in (without, planted))
        yield judge_pair(a, b)


def together(measurements: Sequence[Measurement]) -> Measurement:
    first, *others = measurements
    for other in others:
        first = joined(first, other)
    return first


def told(name: str, verdicts: Sequence[RowVerdict]) -> str:
    """How the rows were judged, and which metrics moved in how many of them."""
    rows = Counter(verdict.status for verdict in verdicts)
    moved = Counter(
        f"{metric.metric} {metric.status}"
        for verdict in verdicts
        for metric in verdict.metrics
        if metric.status in ("regressed", "improved") and metric.gates
    )
    counts = ", ".join(f"{count} {status}" for status, count in rows.most_common())
    metrics = "; ".join(f"{what} {count}" for what, count in moved.most_common())
    return f"{name:>22}: {counts}" + (f" ({metrics})" if metrics else "")


def spread(measurements: Sequence[Measurement], metric: str) -> str:
    """In percent of the mean."""
    processes: list[Process] = [process for one in measurements for process in one.processes]
    values = [value for process in processes if isinstance(value := process.metrics.get(metric), float)]
    if len(values) < 2:
        return "not known"
    return f"{statistics.stdev(values) / statistics.fmean(values):.2%} of {len(values)}"


if __name__ == "__main__":
    main()
