"""
What a case costs beyond its training steps: from the lease to the first step, and from the last to the next lease.

    python -m benchmarks.fixed_cost --model qwen-7b-chat --cases 5

Runs one case several times through the executor that pytest uses, a warm server and a fresh process
each, and prints where the time went. Starting the server, once per run, stands apart.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.setting import STEPPING, case_of, parser, save, workload_of
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.schema.protocol import Phase, Request


def main() -> None:
    arguments = parser(__doc__, cases=5).parse_args()
    request = Request(case=case_of(arguments), workload=workload_of(arguments))
    with LocalExecutor(timeout_seconds=600, announce=print) as executor:
        rows = [one_case(executor, request) for _ in range(arguments.cases)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"server start, once: {rows[0]['server start']:.2f} s")
    for name in names[1:]:
        values = [row.get(name, 0.0) for row in rows]
        print(f"{name:>12}: median {statistics.median(values):.2f} s, min {min(values):.2f}, max {max(values):.2f}")
    save("fixed_cost", rows)


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
