"""Faults of the measuring process that `tests/process` does not cause; each becomes an outcome with a sentence."""

from __future__ import annotations

import os
import re
import resource
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Executor

MIB = 2**20


@pytest.mark.parametrize(
    ("name", "outcome", "reason"),
    [
        ("terminated", "crashed", r"killed by SIGTERM$"),
        ("abort", "crashed", r"killed by SIGABRT; it was at \S+faulty.py:\d+ in abort"),
        (
            "out_of_host_memory",
            "crashed",
            r"the memory of this machine, not that of the GPU, ran out: MemoryError \(at faults/faulty.py:\d+ in out_",
        ),
        ("huge_answer", "crashed", r"its process wrote rubbish to the channel: a message of more than 16 MiB"),
        ("raises_in_colour", "crashed", r"ValueError: \\x1b\]0;a new title\\x07\\x1b\[2J \(at "),
        ("leaves_processes", "ok", r"$"),
    ],
)
def test_a_fault_becomes_its_outcome_and_the_next_case_is_well(
    executor: Executor, name: str, outcome: str, reason: str
) -> None:
    measurement = executor.run(name)

    assert measurement.outcome == outcome
    assert re.match(reason, measurement.reason or ""), measurement.reason
    assert executor.survivors() == []
    assert executor.run("ok").outcome == "ok"
    assert executor.announced == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hang_in_build", r"no answer within 1.50 s, .* of them in phase 'build'; it was at \S+ in hang <- "),
        ("hang_in_native_code", r"no answer within 1.50 s, .*; it was at \S+:\d+ in hang_in_native_code"),
    ],
)
def test_a_deadline_names_the_phase_and_the_line(new_executor: Callable[..., Executor], name: str, reason: str) -> None:
    measurement = new_executor(timeout_seconds=1.5).run(name)

    assert measurement.outcome == "timeout"
    assert re.match(reason, measurement.reason or ""), measurement.reason


def test_printing_without_end_is_a_timeout_that_fills_neither_disk_nor_memory(
    new_executor: Callable[..., Executor],
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    measurement = new_executor(timeout_seconds=2.0).run("prints_for_ever")

    assert measurement.outcome == "timeout"
    printed = re.search(
        r"its last output:\n(?:an epoch of nothing at all\n){7}[^\n]*\nof ([\d.,]+) ([MG]iB), which began with\n"
        r"the first line\nan epoch of nothing at all\n",
        measurement.reason or "",
    )
    assert printed, measurement.reason
    assert printed[2] == "GiB" or float(printed[1].replace(",", "")) >= 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < 16 * MIB


def test_a_case_that_prints_much_is_well(executor: Executor) -> None:
    assert executor.run("prints_much_and_is_well").outcome == "ok"


MODULE = f"flash_attn_2_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
UNDEFINED = """
extern int of_another_torch(void);
int (*at_loading)(void) = of_another_torch;
void *PyInit_flash_attn_2_cuda(void) { return at_loading; }
"""


def run_with(executor: Executor, library: Path) -> str:
    """The reason of a case that imports *library*, which makes it unavailable."""
    executor.environ["PYTHONPATH"] += f"{os.pathsep}{library.parent}"
    measurement = executor.run("broken_library")
    assert measurement.outcome == "unavailable"
    assert (measurement.reason or "").startswith("flash_attn_2_cuda cannot be imported (ImportError: ")
    assert (measurement.reason or "").endswith("; pip install 'pytest-llmbench[flash]'")
    return measurement.reason or ""


def test_a_library_that_was_built_for_another_torch_makes_the_case_unavailable(
    executor: Executor, compile_library: Callable[..., Path]
) -> None:
    assert "undefined symbol: of_another_torch" in run_with(executor, compile_library(UNDEFINED, MODULE))


def test_a_library_that_is_none_makes_the_case_unavailable(executor: Executor, tmp_path: Path) -> None:
    (tmp_path / MODULE).write_bytes(b"\x7fELF, but not for long")

    run_with(executor, tmp_path / MODULE)


@pytest.fixture
def control_group() -> Iterator[Path]:
    """One that has 64 MiB of memory for all its processes."""
    roots = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
    for root, limit in roots:
        group = Path(root, f"llmbench-test-{os.getpid()}")
        with suppress(OSError):
            group.mkdir()
        if (group / limit).exists():
            break
        with suppress(OSError):
            group.rmdir()
    else:
        pytest.skip("no control group for memory can be made here; that needs root")
    (group / limit).write_text(str(64 * MIB))
    with suppress(OSError):  # or the kernel swaps instead
        (group / "memory.swap.max").write_text("0")
    yield group
    for _ in range(100):
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)


def test_the_out_of_memory_killer_is_named(executor: Executor, control_group: Path) -> None:
    executor.environ["LLMBENCH_TEST_CGROUP"] = str(control_group)

    measurement = executor.run("killed_for_memory")

    assert measurement.outcome == "crashed"
    assert (measurement.reason or "").startswith("killed by SIGKILL (the out-of-memory killer does that)")
    assert executor.run("ok").outcome == "ok"
