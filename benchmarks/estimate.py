"""
How far estimates of memory are from what GPUs took: every stored measured row, estimated on this machine.

    python -m benchmarks.estimate --jobs 2
    python -m benchmarks.estimate --jobs 15 --roofline
    python -m benchmarks.estimate --only lora_max_length --plot docs/images/estimate.svg
    python -m benchmarks.estimate --from estimate.json --plot docs/images/estimate.svg

Prints each row's estimate beside its baseline, then the median and the largest error of allocated and of reserved
memory, and the rows that are more than 3 % off. Of several GPUs the errors are of their sum. A row that ran out of
memory when it was measured is right if its estimate does not fit the card. Rows that cannot be estimated are named with
the reason, and count in no median. All rows take about half an hour on two cores.

With --roofline rows are measured in full on the fake device, and the rank correlation of their roofline time with the
device-busy time is printed too.

With OUT set the figures are written to OUT/estimate.json, from which --from reads them. --plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from scipy import stats

from benchmarks.setting import save
from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.schema.estimate import Estimate, Estimating
from pytest_llmbench.schema.protocol import Request
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.baseline import BaselineRow
from pytest_llmbench.store.baselines import BaselineStore

GIB = 2**30
DEVICES = {"nvidia-h200": "141GB", "nvidia-h100-80gb-hbm3": "80GB"}
"""Folders of baselines, and the card of each."""
FAR = 0.03
TIMEOUT_SECONDS = 1800
WHAT = ("allocated", "reserved")
TICKS = (5, 10, 20, 50, 100, 200)


class Stored(NamedTuple):
    """A measured row."""

    device: str
    name: str
    row: BaselineRow


class Beside(msgspec.Struct, frozen=True):
    """A row's estimate beside its measurement; bytes of all GPUs together, by `WHAT`."""

    device: str
    row: str
    outcome: str
    """When it was measured."""
    measured: dict[str, int]
    estimated: dict[str, int]
    """Empty if there is none."""
    fits: bool | None
    """On the card that it was measured on."""
    reason: str | None
    seconds: tuple[float, float] | None = None
    """Device-busy and roofline time of a sample."""

    def error(self, what: str) -> float | None:
        """Relative; None for a row of which one of the two is not known, or that ran out of memory."""
        if self.outcome != "ok" or what not in self.measured or what not in self.estimated:
            return None
        return self.estimated[what] / self.measured[what] - 1


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", metavar="TABLE", action="append", help="default: all tables")
    arguments.add_argument("--row", action="append", help="default: all rows")
    arguments.add_argument("--baselines", type=Path, default=Path("baselines"))
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--roofline", action="store_true", help="measure rows in full, and compare times as well")
    arguments.add_argument("--from", dest="written", type=Path, help="figures of an earlier run, instead of a new one")
    arguments.add_argument("--plot", type=Path, metavar="FILE.svg")
    given = arguments.parse_args()
    if given.written:
        found = msgspec.json.decode(given.written.read_bytes(), type=list[Beside])
    else:
        chosen = [
            one
            for one in stored(BaselineStore(given.baselines))
            if (not given.only or one.name.partition("[")[0] in given.only)
            and (not given.row or one.name.partition("[")[2].rstrip("]") in given.row)
        ]
        found = list(measured(chosen, given.jobs, in_full if given.roofline else estimated))
        save("estimate", found)
    for line in summary(found):
        print(line)
    if given.plot:
        plot(found, given.plot)


def stored(store: BaselineStore) -> Iterator[Stored]:
    for device in DEVICES:
        for _, file in store.files(device):
            for name, row in file.rows.items():
                yield Stored(device, f"{file.table}[{name}]", row)


def measured(rows: Sequence[Stored], jobs: int, how: Callable[[Machine, Stored], Beside]) -> Iterator[Beside]:
    """Print and give each row, in their order."""
    machine = Machine("fake", timeout_seconds=TIMEOUT_SECONDS, announce=print)
    try:
        with ThreadPoolExecutor(jobs) as pool:
            for beside in pool.map(partial(how, machine), rows):
                print(told(beside), flush=True)
                yield beside
    finally:
        machine.close()


def estimated(machine: Machine, stored: Stored) -> Beside:
    row = stored.row
    workload = msgspec.structs.replace(row.workload, device="fake")
    asked = Request(case=row.case, workload=workload, estimate=Estimating())
    process = machine.run(asked, lambda _: None).processes[-1]
    estimate = process.estimate if isinstance(process.estimate, Estimate) else None
    metrics = row.processes[-1].metrics
    peaks = {what: metrics.get(f"peak_{what}_bytes") for what in WHAT}
    return Beside(
        device=stored.device,
        row=stored.name,
        outcome=row.outcome,
        measured={what: sum(peak) for what, peak in peaks.items() if isinstance(peak, tuple)},
        estimated={}
        if estimate is None
        else {"allocated": sum(estimate.allocated_bytes), "reserved": sum(estimate.reserved_bytes)},
        fits=None if estimate is None else estimate.fits[DEVICES[stored.device]],
        reason=process.reason,
    )


def in_full(machine: Machine, stored: Stored) -> Beside:
    """As `estimated`, by a whole measurement on the fake device."""
    row = stored.row
    process = machine.run(Request(case=row.case, workload=Workload(device="fake")), lambda _: None).processes[-1]
    metrics, there = process.metrics, row.processes[-1].metrics
    peaks = {
        side: {what: sum(peak) for what in WHAT if isinstance(peak := values.get(f"peak_{what}_bytes"), tuple)}
        for side, values in (("measured", there), ("estimated", metrics))
    }
    busy, least = there.get("device_busy_seconds_per_sample"), metrics.get("roofline_seconds_per_sample")
    return Beside(
        device=stored.device,
        row=stored.name,
        outcome=row.outcome,
        measured=peaks["measured"],
        estimated=peaks["estimated"],
        fits=None,
        reason=process.reason,
        seconds=(busy, least) if isinstance(busy, float) and isinstance(least, float) else None,
    )


def told(beside: Beside) -> str:
    cells = [f"{beside.row:<52}"]
    for what in WHAT:
        pair = [
            f"{there[what] / GIB:8.2f}" if what in there else "       -"
            for there in (beside.measured, beside.estimated)
        ]
        error = beside.error(what)
        cells.append(f"{what} {pair[0]} {pair[1]} {'' if error is None else f'{error * 100:+.2f} %':>9}")
    if beside.outcome == "oom":
        cells.append(f"ran out of memory; estimated to {'fit' if beside.fits else 'not fit'}")
    return "  ".join([*cells, beside.reason or ""])


def summary(found: Sequence[Beside]) -> Iterator[str]:
    for what in WHAT:
        errors = [(beside, error) for beside in found if (error := beside.error(what)) is not None]
        if not errors:
            continue
        sizes = [abs(error) for _, error in errors]
        yield (
            f"{what}: {len(errors)} rows, median error {statistics.median(sizes):.2%}, largest {max(sizes):.2%}, "
            f"{sum(size > FAR for size in sizes)} above {FAR:.0%}"
        )
        for beside, error in sorted(errors, key=lambda one: -abs(one[1])):
            if abs(error) > FAR:
                yield f"  {beside.row} on {beside.device}: {error:+.2%}"
    if times := [beside.seconds for beside in found if beside.seconds is not None]:
        rank = stats.spearmanr(*zip(*times, strict=True)).statistic
        yield f"roofline against device-busy time: {len(times)} rows, rank correlation {rank:.4f}"
    if gone := [beside for beside in found if beside.outcome == "oom" and beside.fits is not None]:
        yield f"out of memory: {sum(not beside.fits for beside in gone)} of {len(gone)} rows that ran out were estimated to"
    for beside in found:
        if not beside.estimated:
            yield f"not estimated: {beside.row} on {beside.device}: {beside.reason}"


def plot(found: Sequence[Beside], file: Path) -> None:
    """Estimated over measured memory, as SVG with its texts as text."""
    import matplotlib as mpl  # of no package's extra: only this picture needs it

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "llmbench", "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 5.5))
    for what, marker in zip(WHAT, ("o", "x"), strict=True):
        points = [one for one in found if one.error(what) is not None]
        measured_gib, estimated_gib = (
            [getattr(one, side)[what] / GIB for one in points] for side in ("measured", "estimated")
        )
        axes.scatter(measured_gib, estimated_gib, s=18, marker=marker, label=f"{what}, {len(points)} rows")
    most = max(max(one.measured.values()) for one in found if one.measured) / GIB
    axes.plot([4, most], [4, most], linewidth=0.8, color="grey", label="equal")
    axes.set(xscale="log", yscale="log", xlabel="measured, GiB", ylabel="estimated without a GPU, GiB")
    axes.set(xticks=TICKS, xticklabels=TICKS, yticks=TICKS, yticklabels=TICKS)
    axes.minorticks_off()
    axes.legend(loc="upper left")
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
