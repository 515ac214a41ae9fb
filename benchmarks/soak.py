"""
Whether cases leave anything behind: many short ones in a row on one GPU, each in a fresh process.

    python -m benchmarks.soak --cases 200

A case is a step of this module's own, an MLP that fills a gigabyte; --model measures one of the page's models instead.

Reads the GPU's used memory before the first case and after each, while the warm server lives, and prints how far
it was from that floor; the fixed cost of a case, all but its training steps, early and late in the run; and
what the processes of this run hold open at the end. Exits with 1 if a case failed, if memory was left, or if the fixed
cost grew by more than a tenth.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.setting import STEPPING, case_of, in_time, parser, save, workload_of
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.host.nvml import open_nvml
from pytest_llmbench.host.visible import visible_gpus
from pytest_llmbench.probes.evidence import process_tree
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.step import StepResult

if TYPE_CHECKING:
    import torch

MIB = 2**20
LEFT_BYTES = 64 * MIB
"""Of more memory above the floor than this, somebody forgot to let go."""
DRIFT = 0.1


class Soaked(msgspec.Struct, frozen=True):
    """What one case did to the machine."""

    outcome: str
    seconds: float
    fixed_seconds: float
    """From asking for a process until it was gone, but for its training steps."""
    above_floor_bytes: int | None
    """None on the CPU."""
    open_files: int
    """Of this process and its server."""
    server_bytes: int
    """Resident memory of the server."""


def main() -> None:
    arguments = parser(__doc__, model="", max_length=512, samples=8, cases=200, seconds=3600).parse_args()
    ours = Case.custom("benchmarks.soak:build", name="soak")
    case = case_of(arguments, accumulation_steps=1) if arguments.model else ours
    request = Request(case=case, workload=workload_of(arguments))
    floor = used_bytes() if arguments.device == "cuda" else None
    with LocalExecutor(timeout_seconds=300, announce=print) as executor:
        rows = []
        for number in in_time(range(arguments.cases), arguments.seconds):
            rows.append(one_case(executor, request, floor))
            if number % 20 == 0:
                print(f"{number}: {rows[-1]}", flush=True)
    save("soak", rows)
    raise SystemExit(told(rows[1:]))  # the first one starts the server


def build(device: torch.device) -> Callable[[], StepResult]:
    """A short training step: eight layers, of 128 MiB each on a GPU."""
    import torch

    width = 8192 if device.type == "cuda" else 256
    layers = torch.nn.Sequential(
        *(torch.nn.Linear(width, width, device=device, dtype=torch.bfloat16) for _ in range(8))
    )
    optimizer = torch.optim.SGD(layers.parameters(), lr=1e-6)
    inputs = torch.randn(64, width, device=device, dtype=torch.bfloat16)

    def step() -> StepResult:
        loss = layers(inputs).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return StepResult(samples=len(inputs), loss=loss.detach())

    return step


def one_case(executor: LocalExecutor, request: Request, floor: int | None) -> Soaked:
    started = time.monotonic()
    measurement = executor.run(request, _ignore)
    seconds = time.monotonic() - started
    phases = measurement.processes[-1].phase_seconds
    if measurement.outcome != "ok":
        print(f"{measurement.outcome}: {measurement.reason}")
    here = process_tree(os.getpid())
    return Soaked(
        outcome=measurement.outcome,
        seconds=seconds,
        fixed_seconds=seconds - sum(phases.get(name, 0.0) for name in STEPPING),
        above_floor_bytes=None if floor is None else used_bytes() - floor,
        open_files=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in here),
        server_bytes=sum(resident_bytes(pid) for pid in here - {os.getpid()}),
    )


def _ignore(phase: Phase) -> None:
    """Nobody watches a soak."""


def used_bytes() -> int:
    """Of the first visible GPU, by everybody."""
    with open_nvml() as nvml:
        occupancy = nvml.occupancy(visible_gpus(nvml, os.environ)[0])
    if occupancy.used_bytes is None:
        raise SystemExit(f"NVML does not say how much memory is used: {occupancy.missing['used_bytes']}")
    return occupancy.used_bytes


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def told(rows: Sequence[Soaked]) -> int:
    """Print what the cases came to; the exit status."""
    part = max(1, len(rows) // 5)
    first, last = (statistics.median(row.fixed_seconds for row in some) for some in (rows[:part], rows[-part:]))
    failed = [row.outcome for row in rows if row.outcome != "ok"]
    left = [row.above_floor_bytes for row in rows if row.above_floor_bytes is not None]
    drift = last / first - 1
    print(f"cases after the first: {len(rows)}, failed: {len(failed)}")
    print(f"seconds a case: median {statistics.median(row.seconds for row in rows):.2f}")
    print(f"fixed cost: median {first:.3f} s in the first fifth, {last:.3f} s in the last, {drift:+.1%}")
    if left:
        print(
            f"GPU memory above the floor after a case: at most {max(left) / MIB:.1f} MiB, at last {left[-1] / MIB:.1f}"
        )
    print(f"open files of this process and its server: {rows[0].open_files} at first, {rows[-1].open_files} at last")
    print(
        f"memory of the server: {rows[0].server_bytes / MIB:.1f} MiB at first, {rows[-1].server_bytes / MIB:.1f} at last"
    )
    return int(bool(failed) or max(left, default=0) > LEFT_BYTES or drift > DRIFT)


if __name__ == "__main__":
    main()
