from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

import surroundings
from pytest_llmbench.judge.compare import judge
from pytest_llmbench.judge.sentence import failure_sentence
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import (
    AllocationShare,
    Evidence,
    KernelShare,
    Measurement,
    MemoryPoint,
    Process,
    Round,
)
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.published import PublishedTable, load_published
from pytest_llmbench.store.results import Result
from pytest_llmbench.tables import TABLES

ROOT = Path(__file__).parents[2]
GIB = 2**30
OLD = {"torch": "2.11.0", "transformers": "5.17.0", "peft": "0.21.0", "bitsandbytes": "0.48.2"}
NEW = {**OLD, "torch": "2.12.0", "bitsandbytes": "0.50.2"}
KERNELS = ("gemm bf16", "flash attention backward", "flash attention forward", "elementwise", "copy", "adamw", "other")
SHARES = (0.52, 0.17, 0.11, 0.09, 0.05, 0.02, 0.04)


def environment(packages: dict[str, str] | None = None, **changes: Any) -> Environment:
    default = surroundings.environment(
        device_memory_bytes=141 * GIB,
        driver="580.1",
        cuda="13.0",
        power_limit_watts=700.0,
        num_cpus=16,
        system="Linux 6.18",
        packages=OLD if packages is None else packages,
    )
    return msgspec.structs.replace(default, **changes)


def process(metrics: dict[str, Value], *, slower: float = 0.0) -> Process:
    """One that ended well, its kernels adding up to its device-busy time."""
    speed = metrics["samples_per_second"]
    assert isinstance(speed, float)
    seconds = 16 / speed
    busy = metrics.get("device_busy_seconds_per_sample")
    shares = zip(KERNELS, SHARES, strict=True) if isinstance(busy, float) else ()
    return Process(
        outcome="ok",
        metrics=metrics,
        missing={"energy_joules_per_sample": "the measured rounds took 4 s; the energy counter needs 10 s"},
        rounds=(Round(seconds, 16, 13_566),),
        ran={"attention": "flash-attn", "linear": "torch.Linear", "optimizer": "AdamW"},
        evidence=Evidence(
            cards=("3e056f40",),
            idle_used_bytes=(0,),
            sm_clock_mhz=(1980,),
            power_watts=(512.5,),
            temperature_celsius=(56,),
        ),
        kernels=tuple(
            KernelShare(name, 700 * share, busy * share * (1 + (slower if name == "gemm bf16" else 0)))
            for name, share in shares
            if isinstance(busy, float)
        ),
        memory=_course(metrics, seconds),
        peak_allocations=_alive(metrics),
        phase_seconds={"devices": 0.03, "build": 0.9, "warm-up": 1.9, "rounds": seconds, "activity": 2.6},
    )


def _alive(metrics: dict[str, Value]) -> tuple[AllocationShare, ...]:
    """Weights, and the rest of what torch reserves but for a GiB."""
    peak = metrics.get("peak_reserved_bytes")
    if not isinstance(peak, tuple):
        return ()
    return (
        AllocationShare("aten::mm in MmBackward0", 2, max(peak) - 9 * GIB),
        AllocationShare("aten::div in step (mine.py)", 1, 4),
        AllocationShare("before the step", None, 8 * GIB),
    )


def _course(metrics: dict[str, Value], seconds: float) -> tuple[MemoryPoint, ...]:
    """Up to the peak in two rounds, where that is known."""
    peak = metrics.get("peak_reserved_bytes")
    if not isinstance(peak, tuple):
        return ()
    half, most = tuple(one // 2 for one in peak), tuple(one - GIB for one in peak)
    return (
        MemoryPoint("build", 0.93, half, half, half, half),
        MemoryPoint("warm-up", 2.83, half, most, peak, peak),
        MemoryPoint("rounds", 2.83 + seconds / 2, half, most, peak, peak),
        MemoryPoint("rounds", 2.83 + seconds, half, most, peak, peak),
    )


def measured(
    case: Case, processes: Sequence[Process], packages: dict[str, str] | None = None, **changes: Any
) -> Measurement:
    default = Measurement(
        case=case,
        workload=Workload(),
        environment=environment(packages, num_devices=case.num_gpus),
        processes=tuple(processes),
        measured_at="2026-11-24T10:00:00+00:00",
    )
    return msgspec.structs.replace(default, **changes)


class Bench:
    """Makes results and the baselines behind them, as a run would have."""

    def __init__(self, root: Path) -> None:
        self.store = BaselineStore(root)
        self._random = random.Random(0)

    def result(
        self,
        table: str = "speed",
        row: str = "a",
        *,
        case: Case | None = None,
        speed: float = 4.0,
        busy: float = 0.1,
        reserved: tuple[int, ...] = (20 * GIB,),
        slower: float = 0.0,
        processes: int = 1,
        noise: float = 0.0,
        baseline: bool = True,
        day: int = 24,
        **changes: Any,
    ) -> Result:
        """A row as its baseline is, or *slower* by that fraction of its device-busy time."""
        case = case or Case.custom("m:f", name="mine")

        def side(factor: float) -> list[Process]:
            found: list[Process] = []
            for _ in range(processes):
                wobble = 1 + self._random.uniform(-noise, noise)
                metrics: dict[str, Value] = {
                    "samples_per_second": speed / factor * wobble,
                    "tokens_per_second": 800 * speed / factor * wobble,
                    "device_busy_seconds_per_sample": busy * factor * (1 + (wobble - 1) / 20),
                    "kernels_per_sample": 700.0,
                    "host_bound": 0.95,
                    "peak_reserved_bytes": reserved,
                    "loss_first": 12.5,
                }
                found.append(process(metrics, slower=factor - 1))
            return found

        if baseline and self.store.find(measured(case, side(1.0)), table, row) is None:
            self.store.record(table, row, measured(case, side(1.0)), because="a test")
        when = f"2026-11-{day}T10:00:00+00:00"
        now = measured(case, side(1 + slower), NEW if slower else OLD, measured_at=when)
        verdict = judge(now, self.store.find(now, table, row) if baseline else None)
        failed = verdict.failed
        default = Result(
            nodeid=f"tests/tables/test_{table}.py::test_{table}[{row}]",
            table=table,
            row=row,
            measurement=now,
            verdict=verdict,
            decision="fail" if failed else "pass",
            message=failure_sentence(row, verdict) if failed else "",
            seconds=25.0,
        )
        return msgspec.structs.replace(default, **changes)

    def page(self, published: dict[str, PublishedTable], *, processes: int = 5, day: int = 24) -> list[Result]:
        """All 96 rows, some of them slower."""
        found = []
        for name, table in TABLES.items():
            for number, row in enumerate(table.rows):
                printed = published[name].rows[row.id]
                speed = printed.samples_per_second or 0.5
                memory = printed.memory_gib or (75.0,) * row.case.num_gpus
                found.append(
                    self.result(
                        name,
                        row.id,
                        case=row.case,
                        speed=speed,
                        busy=0.93 / speed,
                        reserved=tuple(round(part * GIB) for part in memory),
                        slower=0.1 if number % 11 == 3 else 0.0,
                        processes=processes,
                        noise=0.004,
                        day=day,
                    )
                )
        return found


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "baselines")


@pytest.fixture(scope="session", name="published")
def _published() -> dict[str, PublishedTable]:
    return load_published(ROOT / "baselines")


class Whole(NamedTuple):
    """Two nights of all 96 rows with five processes each."""

    nights: tuple[tuple[Result, ...], ...]
    store: BaselineStore


@pytest.fixture(scope="session", name="whole")
def _whole(tmp_path_factory: pytest.TempPathFactory, published: dict[str, PublishedTable]) -> Whole:
    bench = Bench(tmp_path_factory.mktemp("baselines"))
    return Whole(tuple(tuple(bench.page(published, day=day)) for day in (23, 24)), bench.store)


@pytest.fixture(scope="session", name="whole_html")
def _whole_html(whole: Whole, published: dict[str, PublishedTable]) -> str:
    pytest.importorskip("plotly", reason="a trend needs plotly: pip install 'pytest-llmbench[report]'")
    from pytest_llmbench.reports.html import ResultFile, html_report

    runs = [ResultFile(f"night-{number}", results) for number, results in enumerate(whole.nights)]
    return html_report(runs, store=whole.store, published=published)


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Callable[..., Path]:
    def write(*results: Result, name: str = "results") -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(b"".join(msgspec.json.encode(result) + b"\n" for result in results))
        return path

    return write
