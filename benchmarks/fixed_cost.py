"""
What a case costs beyond its training steps: from the lease to the first step, and from the last to the next lease.

    python benchmarks/fixed_cost.py --model qwen-7b-chat --cases 5

Runs one case several times through the executor that pytest uses, a warm server and a fresh process
each, and prints where the time went. Starting the server, once per run, stands apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from pytest_llmbench.cases import Case
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.protocol import Phase, Request
from pytest_llmbench.workload import Workload

STEPPING = ("warm-up", "rounds", "activity", "operators")
"""Phases that run training steps; all else is fixed cost."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen-7b-chat")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    workload = Workload(
        device=arguments.device,
        scale="full" if arguments.device == "cuda" else "smoke",
        samples=arguments.samples,
    )
    request = Request(case=Case(model=arguments.model, attention=arguments.attention), workload=workload)
    environ = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    with LocalExecutor(timeout_seconds=600, announce=print, environ=environ) as executor:
        rows = [one_case(executor, request) for _ in range(arguments.cases)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"server start, once: {rows[0]['server start']:.2f} s")
    for name in names[1:]:
        values = [row.get(name, 0.0) for row in rows]
        print(f"{name:>12}: median {statistics.median(values):.2f} s, min {min(values):.2f}, max {max(values):.2f}")
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "fixed_cost.json").write_text(json.dumps(rows))


def one_case(executor: LocalExecutor, request: Request) -> dict[str, float]:
    """Seconds by part of one case."""
    seen: list[tuple[str, float]] = [("server start", time.monotonic())]

    def note(phase: Phase) -> None:
        seen.append((phase.name, time.monotonic()))

    measurement = executor.run(request, note)
    end = time.monotonic()
    if measurement.outcome != "ok":
        raise SystemExit(f"{measurement.outcome}: {measurement.reason}")
    phases = measurement.processes[0].phase_seconds
    preload = next((at for name, at in seen if name == "preload"), None)
    first = next(at for name, at in seen if name not in ("server start", "preload"))
    server = first - preload if preload is not None else 0.0
    total = end - seen[0][1] - server
    stepping = sum(phases.get(name, 0.0) for name in STEPPING)
    rest = sum(seconds for name, seconds in phases.items() if name not in STEPPING)
    before_first_phase = 0.0 if preload is not None else first - seen[0][1]
    return {
        "server start": server,
        "start": before_first_phase,
        **phases,
        "end": total - stepping - rest - before_first_phase,
        "fixed": total - stepping,
        "total": total,
    }


if __name__ == "__main__":
    main()
