from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_llmbench.store.results import Result, latest, read_results

HERE = Path(__file__).parent
SOURCE = HERE.parent / "unit" / "fake_nvml.c"

ROWS = """
import pytest
from pytest_llmbench import Case

CASES = {cases}

@pytest.mark.parametrize("case", CASES, ids=[case.model.split()[0] for case in CASES])
def test_speed(llmbench, case):
    llmbench(case)
"""


class Driver:
    """A pytest that runs in a folder of its own and has the cases measured on the cluster."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        self.pytester = pytester
        self._monkeypatch = monkeypatch
        self._address = address

    def on(self, **cluster: Any) -> None:
        """What to ask of the cluster."""
        asked = msgspec.json.encode({"address": self._address, **cluster}).decode()
        self._monkeypatch.setenv("TEST_CLUSTER", asked)

    def rows(self, *names: str, num_gpus: int = 1) -> None:
        """One test with a row for each name, which ends with the seconds that the row takes."""
        cases = [f"Case.custom('m:f', name={name!r}, num_gpus={num_gpus})" for name in names]
        self.pytester.makepyfile(test_rows=ROWS.format(cases=f"[{', '.join(cases)}]"))

    def options(self, *options: str) -> list[str]:
        plugins = ["-p", "pytest_llmbench.plugin", "-p", "rays"]
        return [*plugins, "--llmbench", "--llmbench-missing=record", "--llmbench-results=r.jsonl", *options]

    def run(self, *options: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess(*self.options(*options))

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """To be waited for."""
        command = [sys.executable, "-m", "pytest", *self.options(*options)]
        return subprocess.Popen(command, cwd=self.pytester.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def announced(self) -> list[str]:
        return (self.pytester.path / "announced.txt").read_text().splitlines()

    def results(self) -> dict[str, Result]:
        """By row, of the only run."""
        path = self.pytester.path / "r.jsonl"
        return {result.row: result for result in latest(read_results(path))} if path.exists() else {}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fake NVML, which nodes load where they would load the driver's."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler to build the fake NVML with")
    built = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, SOURCE], check=True)
    return built.parent


@pytest.fixture(scope="session")
def cluster(library: Path) -> Iterator[Any]:
    """A head that runs nothing, and no node yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is none of this project's
        utils = pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as monkeypatch:
        search = os.pathsep.join(filter(None, [str(library), os.environ.get("LD_LIBRARY_PATH")]))
        monkeypatch.setenv("LD_LIBRARY_PATH", search)
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A node that is gone is to be found out in seconds.
        monkeypatch.setenv("RAY_health_check_period_ms", "500")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        started = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        yield started
        started.shutdown()


@pytest.fixture
def add_node(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Adds a node of that name for the test."""
    nodes: list[Any] = []

    def add(name: str, **node: Any) -> Any:
        environ = {"TEST_NODE": name, "TMPDIR": str(tmp_path_factory.mktemp(name)), **node.pop("environ", {})}
        nodes.append(cluster.add_node(env_vars=environ, **node))
        return nodes[-1]

    yield add
    for node in nodes:
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def driver(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, cluster: Any) -> Driver:
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    made = Driver(pytester, monkeypatch, cluster.address)
    made.on()
    return made
