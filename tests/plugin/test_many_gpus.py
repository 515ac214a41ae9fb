"""Runs of pytest-xdist on a machine of several GPUs, as far as NVML says: each process takes one of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

pytest.importorskip("xdist")

SOURCE = Path(__file__).parents[1] / "unit" / "fake_nvml.c"
ROWS = """
import pytest
from pytest_llmbench import Case

@pytest.mark.parametrize("case", [Case.custom("m:f", name=f"{name} 1.5") for name in "abcd"], ids=list("abcd"))
def test_speed(llmbench, case):
    llmbench(case)
"""


@pytest.fixture
def gpu_bench(bench: Bench, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Bench:
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler to build the fake NVML with")
    built = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, SOURCE], check=True)
    search = os.pathsep.join(filter(None, [str(built.parent), os.environ.get("LD_LIBRARY_PATH")]))
    monkeypatch.setenv("LD_LIBRARY_PATH", search)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LLMBENCH_TEST_SLEPT", str(bench.folder / "slept.txt"))
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("leases")))
    return bench


def slept(bench: Bench) -> list[tuple[str, float, float, str]]:
    """GPU, begin, end and case of everything that was measured."""
    found = []
    for line in (bench.folder / "slept.txt").read_text().splitlines():
        gpu, begin, end, case, _ = line.split()
        found.append((gpu, float(begin), float(end), case))
    return found


def test_processes_of_xdist_share_the_gpus_and_measure_each_row_once(
    gpu_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML_GPUS", "2")
    gpu_bench.pytester.makepyfile(test_rows=ROWS)

    run = gpu_bench.run_apart("-p", "xdist", "-n", "2", "--llmbench-missing=record", plugin="sleeping")

    run.assert_outcomes(passed=4)
    cases = slept(gpu_bench)
    assert sorted(case for *_, case in cases) == ["a", "b", "c", "d"]
    assert len({gpu for gpu, *_ in cases}) == 2
    assert sorted(result.row for result in gpu_bench.results()) == ["a", "b", "c", "d"]
    first, second = sorted(cases, key=lambda one: one[1])[:2]
    assert first[0] != second[0]
    assert second[1] < first[2]  # at the same time


def test_more_processes_than_gpus_take_turns(gpu_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML_GPUS", "1")
    gpu_bench.pytester.makepyfile(test_rows=ROWS.replace("1.5", "0.2"))

    gpu_bench.run_apart("-p", "xdist", "-n", "2", "--llmbench-missing=record", plugin="sleeping").assert_outcomes(
        passed=4
    )

    ordered = sorted(slept(gpu_bench), key=lambda one: one[1])
    assert all(earlier[2] <= later[1] for earlier, later in itertools.pairwise(ordered))
