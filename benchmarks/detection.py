"""
What the judge finds of slow-downs and allocations that were planted on purpose, and what it finds where none was.

    python -m benchmarks.detection --plant device --plant host --batch-size 8 --verdicts 8

The row has no gradient checkpointing and an optimizer step after each micro-batch: fewer operators, and sooner done.
Everything is measured in blocks: one process with nothing planted and one for each planted amount, in an order that is
drawn anew for each block. A verdict holds so many blocks' processes with a plant against those without, in pairs, as
`llmbench ab` does; verdicts on one amount share no process. `none` is a process with nothing planted held against
another: it must never be regressed or improved. All are judged twice: with the noise that is taken for a row of this
class, as in its first night, and with what `llmbench calibrate` learns of it from the processes without a plant.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from benchmarks.setting import case_of, in_time, parser, save, workload_of
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.judge.noise import estimate_noise
from pytest_llmbench.judge.pair import judge_pair
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement, Process, joined
from pytest_llmbench.schema.metrics import Noise
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload, parse_injection

NOTHING, REFERENCE = "none", "reference"
PLANTS = {
    "device": ("device=0.5%", "device=1%", "device=2%", "device=3%", "device=5%"),
    "host": ("host=0.5%", "host=1%", "host=2%", "host=3%", "host=5%"),
    "memory": tuple(
        f"{kind}={mib}MiB" for kind in ("memory", "memory-idle", "memory-outside") for mib in (1, 16, 64, 256)
    ),
    NOTHING: (NOTHING,),
}
SPEEDS = ("samples_per_second", "device_busy_seconds_per_sample")


def main() -> None:
    arguments = parser(
        __doc__, model="qwen-1_8b-chat", samples=4, verdicts=8, pairs=1, batch_size=1, max_length=2048, seconds=3600
    )
    arguments.add_argument("--plant", choices=tuple(PLANTS), action="append", help="default: all but memory")
    given = arguments.parse_args()
    plants = [plant for kind in given.plant or ("device", "host", NOTHING) for plant in PLANTS[kind]]
    case = case_of(given, gradient_checkpointing=False, accumulation_steps=1)
    order = random.Random(1)
    taken: dict[str, list[Measurement]] = {name: [] for name in (REFERENCE, *plants)}
    with LocalExecutor(timeout_seconds=600, announce=print) as executor:
        for _ in in_time(range(given.verdicts * given.pairs), given.seconds):
            for name in order.sample(list(taken), len(taken)):
                request = Request(case=case, workload=planted(workload_of(given), name))
                taken[name].append(executor.run(request, lambda _: None))
                if taken[name][-1].outcome != "ok":
                    raise SystemExit(f"{name}: {taken[name][-1].outcome}: {taken[name][-1].reason}")
    learned = estimate_noise([together(taken[REFERENCE])])
    for how, noise in {"with the noise of rows alike": {}, "with the noise of these processes": learned}.items():
        verdicts = {
            name: list(judged(taken[REFERENCE], taken[name], given.pairs, noise)) for name in taken if name != REFERENCE
        }
        print(how)
        for name, found in verdicts.items():
            print(told(name, found))
    for metric in SPEEDS:
        print(f"{metric}: sd between processes {spread(taken[REFERENCE], metric)}")
    save("detection", taken)


def planted(workload: Workload, name: str) -> Workload:
    injection = None if name in (NOTHING, REFERENCE) else parse_injection(name)
    return msgspec.structs.replace(workload, injection=injection)


def judged(
    without: Sequence[Measurement], planted: Sequence[Measurement], pairs: int, noise: Mapping[str, Noise]
) -> Iterable[RowVerdict]:
    """Verdicts on as many pairs each."""
    for start in range(0, len(planted) - pairs + 1, pairs):
        a, b = (together(side[start : start + pairs]) for side in (without, planted))
        yield judge_pair(a, b, noise=noise)


def together(measurements: Sequence[Measurement]) -> Measurement:
    first, *others = measurements
    for other in others:
        first = joined(first, other)
    return first


def told(name: str, verdicts: Sequence[RowVerdict]) -> str:
    """How often each speed got which verdict, and which other metrics moved in how many rows."""
    found: dict[str, Counter[str]] = {metric: Counter() for metric in SPEEDS}
    moved: Counter[str] = Counter()
    for metric in (metric for verdict in verdicts for metric in verdict.metrics):
        if metric.metric in SPEEDS:
            found[metric.metric][metric.status] += 1
        elif metric.gates and metric.status in ("regressed", "improved"):
            moved[f"{metric.metric} {metric.status}"] += 1
    speeds = [f"{metric}: {counted(statuses)}" for metric, statuses in found.items() if statuses]
    return "; ".join([f"{name:>22} of {len(verdicts)}", *speeds, *([counted(moved)] if moved else [])])


def counted(what: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in what.most_common())


def spread(measurements: Sequence[Measurement], metric: str) -> str:
    """In percent of the mean."""
    processes: list[Process] = [process for one in measurements for process in one.processes]
    values = [value for process in processes if isinstance(value := process.metrics.get(metric), float)]
    if len(values) < 2:
        return "not known"
    return f"{statistics.stdev(values) / statistics.fmean(values):.2%} of {len(values)}"


if __name__ == "__main__":
    main()
