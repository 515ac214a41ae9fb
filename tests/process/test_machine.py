"""Runs beside each other on a machine of several GPUs, as far as NVML says: the library is built from `fake_nvml.c`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parent / "unit" / "fake_nvml.c"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler to build the fake NVML with")
    built = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, SOURCE], check=True)
    return built


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Start:
    def start(
        gpus: int, *rows: str, program: tuple[str, ...] = (str(HERE / "machine_script.py"),), **environ: str
    ) -> subprocess.Popen[str]:
        """A run of rows, each NAME:SECONDS:GPUS."""
        search = os.pathsep.join(filter(None, [str(library.parent), os.environ.get("LD_LIBRARY_PATH")]))
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        return subprocess.Popen(
            [sys.executable, *program, *rows],
            env={
                **inherited,
                "LD_LIBRARY_PATH": search,
                "PYTHONPATH": path,
                "TMPDIR": str(tmp_path),
                "FAKE_NVML_GPUS": str(gpus),
                **environ,
            },
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def gpus_of(run: subprocess.Popen[str]) -> dict[str, list[int]]:
    """Row to the indices of its GPUs."""
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0, output
    found = {}
    for line in output.splitlines():
        name, _, devices = line.partition(": ")
        if devices.startswith("GPU-f"):
            found[name] = [int(match, 16) for match in re.findall(r"GPU-f0*([0-9a-f]+?)-0000", devices)]
    return found


def test_runs_side_by_side_are_on_different_gpus(start: Start) -> None:
    runs = [start(4, f"row-{number}:3:1") for number in range(4)]

    used = [gpu for run in runs for gpus in gpus_of(run).values() for gpu in gpus]

    assert sorted(used) == [0, 1, 2, 3]


def test_a_row_of_two_gpus_waits_until_two_are_free(start: Start) -> None:
    held = start(2, "narrow:2:1")
    assert held.stdout is not None
    time.sleep(1.2)
    wide = start(2, "wide:0:2")

    assert gpus_of(wide) == {"wide": [0, 1]}
    gpus_of(held)


ASKED = """
from pytest_llmbench.executors.choice import in_parallel
from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.executors.pool import Announcements

machine = Machine("cuda", timeout_seconds=60, announce=print)
try:
    found = in_parallel(machine, {jobs!r}, seconds=lambda _: 1.0, announcements=Announcements(print))
except ValueError as error:
    print(error)
else:
    print("the machine itself" if found is machine else found)
"""


@pytest.mark.parametrize(
    ("gpus", "jobs", "told"),
    [
        (1, "auto", "the machine itself"),
        (3, 1, "the machine itself"),
        (3, "auto", "NVIDIA H200 (140.40 GiB) x 3, 3 jobs"),
        (3, 2, "NVIDIA H200 (140.40 GiB) x 3, 2 jobs"),
        (3, 4, "4 cases at once need a GPU each, and 3 are visible"),
    ],
)
def test_jobs_are_as_many_as_gpus_at_most(start: Start, gpus: int, jobs: int | str, told: str) -> None:
    run = start(gpus, program=("-c", ASKED.format(jobs=jobs)))

    assert run.communicate(timeout=60)[0] == f"{told}\n"


def test_only_gpus_like_the_first_are_used(start: Start) -> None:
    run = start(2, "row:0:1", "again:0:1", FAKE_NVML_OTHER="1", CUDA_DEVICE_ORDER="PCI_BUS_ID")

    assert gpus_of(run) == {"row": [0], "again": [0]}
