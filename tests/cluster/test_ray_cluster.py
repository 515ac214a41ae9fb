"""Cases on a real Ray cluster of local nodes, driven by a pytest that is not one of them."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pytest_llmbench
from pytest_llmbench.schema.measurement import Process

if TYPE_CHECKING:
    from tests.cluster.conftest import Driver

AddNode = Callable[..., Any]
SMOKE = "--llmbench-scale=smoke"


def processes(driver: Driver) -> dict[str, Process]:
    return {row: result.measurement.processes[0] for row, result in driver.results().items()}


def test_rows_run_on_both_nodes_from_a_driver_without_torch(driver: Driver, add_node: AddNode) -> None:
    for name in ("one", "other"):
        add_node(name, num_cpus=2)
    driver.rows(*(f"{letter} 1" for letter in "abcdefgh"))

    run = driver.run(SMOKE)

    run.assert_outcomes(passed=8)
    assert Counter(process.ran["node"] for process in processes(driver).values()) == {"one": 4, "other": 4}
    assert driver.announced() == ["torch in the driver: False"]
    assert list(driver.results()) == list("abcdefgh")
    assert all(1 < (result.seconds or 0.0) < 2.5 for result in driver.results().values())  # and not what they waited


def test_killing_a_node_in_the_middle_loses_no_row(driver: Driver, cluster: Any, add_node: AddNode) -> None:
    add_node("stays", num_cpus=2)
    doomed = add_node("doomed", num_cpus=2)
    driver.rows(*(f"{letter} 2" for letter in "abcdefgh"))

    run = driver.start(SMOKE)
    deadline = time.monotonic() + 60
    first: set[int] = set()
    while not driver.results() and time.monotonic() < deadline:
        first |= set(sleeping("doomed"))
        time.sleep(0.05)
    while set(sleeping("doomed")) <= first and time.monotonic() < deadline:
        time.sleep(0.05)  # until one has only just begun
    assert 1 <= len(driver.results()) < 8
    cluster.remove_node(doomed, allow_graceful=False)
    output, _ = run.communicate(timeout=90)

    assert run.returncode == 0, output
    assert list(driver.results()) == list("abcdefgh")
    assert {process.outcome for process in processes(driver).values()} == {"ok"}
    assert [line for line in driver.announced() if re.match("[a-h] 2 is measured again: ", line)]
    assert all(f"\n{letter} ".encode() in output for letter in "abcdefgh")  # the table


def test_gpus_are_asked_for_by_number_and_model_and_each_model_has_baselines(driver: Driver, add_node: AddNode) -> None:
    for model, count in (("H100", 2), ("A100", 1)):
        add_node(
            model,
            num_cpus=4,
            num_gpus=count,
            resources={f"accelerator_type:{model}": 1},
            environ={"FAKE_NVML_GPUS": str(count), "FAKE_NVML_NAME": f"NVIDIA {model}"},
        )
    driver.rows("a 0", "b 0")

    driver.run().stdout.fnmatch_lines(["*has GPUs of several models (A100, H100), which do not compare; *"])
    for model, num_gpus in (("H100", 2), ("A100", 1)):
        driver.rows("a 0", "b 0", num_gpus=num_gpus)
        driver.on(accelerator=model)
        driver.run().assert_outcomes(passed=2)

        found = processes(driver)
        assert {process.ran["node"] for process in found.values()} == {model}
        assert {len(process.ran["devices"].split(",")) for process in found.values()} == {num_gpus}
        (driver.pytester.path / "r.jsonl").unlink()

    folders = sorted(path.parent.name for path in (driver.pytester.path / "baselines").glob("*/speed.json"))
    assert folders == ["nvidia-a100", "nvidia-h100"]


def test_a_case_that_fits_on_no_node_is_skipped_with_what_it_lacks(driver: Driver, add_node: AddNode) -> None:
    add_node("small", num_cpus=1)
    driver.on(patience_seconds=1.0, accelerator="H100")
    driver.rows("a 0", num_gpus=4)

    run = driver.run("-rs")

    run.assert_outcomes(skipped=1)
    run.stdout.fnmatch_lines(["*: needs 1 CPU, 4 GPU, accelerator_type:H100 on one node, and of the 2 nodes *"])


def test_another_version_on_a_node_is_an_error_that_says_so(driver: Driver, add_node: AddNode, tmp_path: Path) -> None:
    add_node("old", num_cpus=2)
    old = tmp_path / "old" / "pytest_llmbench"
    shutil.copytree(Path(pytest_llmbench.__file__).parent, old)
    protocol = old / "protocol.py"
    protocol.write_text(re.sub(r"PROTOCOL_VERSION = \d+", "PROTOCOL_VERSION = 99", protocol.read_text()))
    driver.on(ships_code=False, runtime_env={"env_vars": {"PYTHONPATH": str(old.parent)}})
    driver.rows("a 0", "b 0")

    run = driver.run(SMOKE)

    assert run.ret != 0
    run.stdout.fnmatch_lines(
        ["*node *: it has pytest-llmbench * (protocol 99, *), the driver * (protocol *); install the same in both*"]
    )
    assert driver.results() == {}


def test_another_version_of_ray_is_an_error_that_says_so(driver: Driver, add_node: AddNode) -> None:
    driver.pytester.makeconftest("import ray\nray.__version__ = '2.0.0'")
    driver.rows("a 0")

    run = driver.run(SMOKE)

    assert run.ret != 0
    run.stdout.fnmatch_lines(["*Ray cluster *: Version mismatch: The cluster was started with:*"])


def test_a_cluster_that_is_not_there_is_an_error_that_names_it(driver: Driver) -> None:
    driver.on(address="127.0.0.1:1")
    driver.rows("a 0")

    run = driver.run(SMOKE)

    assert run.ret != 0
    run.stdout.fnmatch_lines(["*Ray cluster 127.0.0.1:1: *"])


def test_a_run_that_stops_early_ends_its_tasks(driver: Driver, add_node: AddNode) -> None:
    add_node("one", num_cpus=3)
    driver.pytester.makepyfile(
        test_rows="""
        import pytest
        from pytest_llmbench import Case

        CASES = [Case.custom("m:f", name=name) for name in ("short 0", "long 600", "longer 601")]

        @pytest.mark.parametrize("case", CASES, ids=["short", "long", "longer"])
        def test_speed(llmbench, case):
            llmbench(case)
            assert False
        """
    )

    started = time.monotonic()
    driver.run(SMOKE, "-x")

    assert time.monotonic() - started < 60
    deadline = time.monotonic() + 15
    while (left := sleeping("one")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="the miniatures of a machine without a GPU")
def test_the_smoke_suite_runs_on_two_nodes(driver: Driver, add_node: AddNode, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    for name in ("one", "other"):
        add_node(name, num_cpus=1)
    monkeypatch.setenv("TEST_REAL", "1")
    tables = Path(__file__).parents[1] / "tables"

    stored = f"--llmbench-baselines={driver.pytester.path / 'stored'}"
    run = driver.run(
        SMOKE, "--llmbench-samples=4", stored, "--rootdir", str(tables), str(tables / "test_batch_size.py")
    )

    run.assert_outcomes(passed=4)
    assert len(driver.results()) == 4


def sleeping(node: str) -> list[int]:
    """The measuring processes on a node: what servers have forked."""
    servers, parents = set(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environ = (folder / "environ").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"sleepers:measure" in words and f"TEST_NODE={node}".encode() in environ:
            servers.add(int(folder.name))
            parents[int(folder.name)] = parent
    return [pid for pid, parent in parents.items() if parent in servers]
