"""
What many rows cost: time per row, and what piles up in the process of pytest.

    python -m benchmarks.load --cases 2000

Runs pytest over so many custom cases at smoke scale on the CPU, each in a fresh process of the real worker,
and prints the time that a row takes, the memory and the open files of pytest early and late in the run, and
the processes left behind. Then it reads a result file of ten thousand of these rows, and finds and records one
beside a thousand others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.results import Result, read_results

STEP = """
import torch

def build(device):
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8, device=device)
    data = torch.randn(4, 8, device=device)

    def step():
        layer(data).square().mean().backward()
        return 4

    return step
"""
TESTS = """
import pytest
from pytest_llmbench import Case
"""
TEST = """
@pytest.mark.parametrize("number", range({rows}))
def test_load_{table}(llmbench, number):
    llmbench(Case.custom("load_step:build", name="load"))
"""
WATCH = """
import os, time
from pathlib import Path

def pytest_llmbench_result(result, config):
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    with Path("watched.txt").open("a") as stream:
        stream.write(f"{time.monotonic()} {memory} {open_files}\\n")
"""
EARLY = 0.1
"""Share of the rows after which everything is imported and warm."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--tables", type=int, default=20, help="files of baselines over which the rows are spread")
    parser.add_argument("--samples", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = one_run(Path(folder), arguments.cases, arguments.tables, arguments.samples)
        results = read_results(Path(folder, "r.jsonl"))
        found |= reading(Path(folder), results)
        found |= recording(Path(folder), results[0].measurement)
    for name, value in found.items():
        print(f"{name:>40}: {value:.6g}" if isinstance(value, float) else f"{name:>40}: {value}")
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "load.json").write_text(json.dumps(found))


def one_run(folder: Path, cases: int, tables: int, samples: int) -> dict[str, float | int]:
    """Run all cases, and look at the process of pytest meanwhile."""
    (folder / "load_step.py").write_text(STEP)
    rows = [len(range(table, cases, tables)) for table in range(tables)]
    tests = (TEST.format(rows=count, table=table) for table, count in enumerate(rows) if count)
    (folder / "test_load.py").write_text(TESTS + "".join(tests))
    (folder / "conftest.py").write_text(WATCH)
    mark = uuid.uuid4().hex
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--llmbench",
        "--llmbench-scale=smoke",
        "--llmbench-missing=record",
    ]
    command += ["--llmbench-results=r.jsonl", f"--llmbench-samples={samples}", "-p", "no:cacheprovider"]
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LLMBENCH_LOAD_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stdout[-4000:])
    watched = [line.split() for line in (folder / "watched.txt").read_text().splitlines()]
    times = [float(line[0]) for line in watched]
    memory = [int(line[1]) for line in watched]
    files = [int(line[2]) for line in watched]
    early = int(len(watched) * EARLY)
    between = [after - before for before, after in itertools.pairwise(times)]
    return {
        "rows": len(watched),
        "seconds in all": seconds,
        "median seconds a row": statistics.median(between),
        "... of the first tenth": statistics.median(between[:early]),
        "... of the last tenth": statistics.median(between[-early:]),
        "... of them in the measuring process": statistics.median(_phase_seconds(read_results(folder / "r.jsonl"))),
        "MiB of pytest after a tenth": memory[early] / 2**20,
        "MiB of pytest at the end": memory[-1] / 2**20,
        "KiB a row": (memory[-1] - memory[early]) / (len(memory) - early - 1) / 2**10,
        "open files of pytest after a tenth": files[early],
        "open files of pytest at the end": files[-1],
        "processes left behind": len(left_behind(mark)),
    }


def _phase_seconds(results: Iterable[Result]) -> list[float]:
    return [sum(result.measurement.processes[-1].phase_seconds.values()) for result in results]


def left_behind(mark: str) -> list[int]:
    """Processes of the run that have outlived it."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def reading(folder: Path, rows: tuple[Result, ...], count: int = 10_000) -> dict[str, float | int]:
    """How long a file of *count* such results takes to be read."""
    lines = (folder / "r.jsonl").read_bytes().splitlines(keepends=True)
    path = folder / "many.jsonl"
    path.write_bytes(b"".join(lines[number % len(rows)] for number in range(count)))
    return {
        "results in a file": count,
        "MiB of that file": path.stat().st_size / 2**20,
        "seconds to read it": timed(lambda: read_results(path)),
    }


def recording(folder: Path, measurement: Measurement, count: int = 1000) -> dict[str, float | int]:
    """How long a row takes to be found and to be recorded in a file that has *count* rows."""
    store = BaselineStore(folder / "many")
    path = store.record("load", "row", measurement, "first")
    stored = json.loads(path.read_bytes())
    stored["rows"] = {f"row-{number}": stored["rows"]["row"] for number in range(count)}
    path.write_text(json.dumps(stored))
    store = BaselineStore(folder / "many")
    first = timed(lambda: store.find(measurement, "load", "row-0"))
    return {
        "rows in a baseline": count,
        "seconds to find one, the file unread": first,
        "seconds to find another": timed(lambda: store.find(measurement, "load", "row-1")),
        "seconds to record one": timed(lambda: store.record("load", "new", measurement, "again")),
    }


def timed(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
