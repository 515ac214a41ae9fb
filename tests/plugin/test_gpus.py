"""Runs on a machine with GPUs, as far as NVML says: the real binding over the library built from `fake_nvml.c`."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Bench

SOURCE = Path(__file__).parents[1] / "unit" / "fake_nvml.c"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler to build the fake NVML with")
    built = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, SOURCE], check=True)
    return built


@pytest.fixture
def gpu_bench(bench: Bench, library: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """On a machine with one H200, unless the environment says more."""
    search = os.pathsep.join(filter(None, [str(library.parent), os.environ.get("LD_LIBRARY_PATH")]))
    monkeypatch.setenv("LD_LIBRARY_PATH", search)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return bench


@pytest.mark.parametrize(("count", "told"), [("1", ""), ("2", " x 2")])
def test_the_header_names_the_gpus(gpu_bench: Bench, monkeypatch: pytest.MonkeyPatch, count: str, told: str) -> None:
    monkeypatch.setenv("FAKE_NVML_GPUS", count)

    run = gpu_bench.run_apart(plugin="no:nothing")

    run.stdout.fnmatch_lines([f"llmbench: NVIDIA H200 (140.40 GiB){told}, scale full, 16 samples, baselines baselines"])


def test_a_case_that_needs_more_gpus_than_there_are_is_skipped(gpu_bench: Bench) -> None:
    gpu_bench.test("def test_own(llmbench): llmbench(Case.custom('m:f', name='a', num_gpus=2))")

    run = gpu_bench.run_apart("-rs", plugin="no:nothing")

    run.assert_outcomes(skipped=1)
    run.stdout.fnmatch_lines(["SKIPPED*: needs 2 GPUs, 1 visible"])


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_a_gpu_without_torch_is_a_failure_that_says_what_to_install(gpu_bench: Bench) -> None:
    gpu_bench.rows("a")

    run = gpu_bench.run_apart(plugin="no:nothing")

    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*torch not installed; pip install 'pytest-llmbench[[]train]'*"])
