"""The real NVML binding in real child processes, over the library built from `fake_nvml.c`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_llmbench.host.nvml import Nvml, NvmlUnavailable, open_nvml

MIB = 2**20
OF_OTHERS = (
    "cards",
    "allocation_retries",
    "freed_segments",
    "canary_flops_per_second",
    "canary_copy_bytes_per_second",
    "busy_seconds_per_sample",
    "recompilations",
)
"""Evidence that is not of two readings."""
CHILD = """
import json, os, sys
import msgspec
from pytest_llmbench.probes import evidence
from pytest_llmbench.host import nvml
from pytest_llmbench.host.visible import visible_gpus

assert "pynvml" not in sys.modules

def whole_story():
    with nvml.open_nvml() as session:
        gpus = visible_gpus(session, os.environ)
        idle = [session.occupancy(gpu) for gpu in gpus]
        before = [session.reading(gpu) for gpu in gpus]
        after = [session.reading(gpu) for gpu in gpus]
        own = evidence.process_tree(os.getpid())
        kept, missing = evidence.evidence(idle, idle, before, after, own)
        try:
            energy = [session.energy_millijoules(gpu) for gpu in gpus]
        except nvml.NvmlUnavailable as error:
            energy = str(error)
        return {
            "gpus": gpus, "occupancy": idle, "readings": [before, after], "energy": energy,
            "evidence": kept, "missing": missing, "pid": os.getpid(), "torch": "torch" in sys.modules,
        }

try:
    story = whole_story()
except nvml.NvmlUnavailable as error:
    story = {"error": type(error).__name__, "message": str(error), "code": error.code}
sys.stdout.buffer.write(msgspec.json.encode(story))
"""

Machine = Callable[..., Any]
"""Runs the child in a machine described by the fake's variables and returns what it found."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler to build the fake NVML with")
    built = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, source], check=True)
    return built


def run_child(folder: Path, **variables: str) -> Any:
    # The loader reads LD_LIBRARY_PATH once, when a process starts.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    search = os.pathsep.join(filter(None, [str(folder), inherited.get("LD_LIBRARY_PATH")]))
    environ = inherited | {"LD_LIBRARY_PATH": search} | variables
    child = subprocess.run([sys.executable, "-c", CHILD], env=environ, stdout=subprocess.PIPE, check=True, timeout=60)
    return json.loads(child.stdout)


@pytest.fixture
def machine(library: Path) -> Machine:
    def run(**variables: str) -> Any:
        names = {"gpus", "fail", "mig", "other", "processes"}
        fake = {f"FAKE_NVML_{name.upper()}" if name in names else name: value for name, value in variables.items()}
        return run_child(library.parent, **fake)

    return run


@pytest.fixture
def real_nvml() -> Iterator[Nvml]:
    try:
        with open_nvml() as session:
            yield session
    except NvmlUnavailable as error:
        pytest.skip(str(error))


def indices(story: Any) -> list[int]:
    return [gpu["index"] for gpu in story["gpus"]]


def uuid(index: int) -> str:
    return f"GPU-f000000{index:x}-0000-4000-8000-{index:012x}"


def test_everything_a_healthy_gpu_says(machine: Machine) -> None:
    story = machine(processes="Compute:0:self:1073741824")

    assert story["gpus"] == [
        {
            "index": 0,
            "uuid": uuid(0),
            "name": "NVIDIA H200",
            "total_memory_bytes": 143771 * MIB,
            "driver": "580.159.04",
            "mig": False,
        }
    ]
    assert story["occupancy"] == [
        {
            "used_bytes": 3 * MIB,
            "driver_reserved_bytes": 614 * MIB,
            "total_bytes": 143771 * MIB,
            "process_bytes": {str(story["pid"]): 1024 * MIB},
            "missing": {},
        }
    ]
    assert story["readings"][0] == [
        {
            "sm_clock_mhz": 1980,
            "memory_clock_mhz": 3201,
            "power_watts": 654.321,
            "power_limit_watts": 700.0,
            "temperature_celsius": 62,
            "power_cap_ns": 74_000_000,
            "sw_thermal_ns": 269_000_000,
            "hw_thermal_ns": 270_000_000,
            "hw_power_brake_ns": 271_000_000,
            "missing": {},
        }
    ]
    assert story["energy"] == [5_000_000_000_000]
    assert story["torch"] is False


def test_two_readings_become_evidence_in_seconds(machine: Machine) -> None:
    story = machine(gpus="2", processes="Compute:0:self:1073741824,Compute:1:self:1073741824,Compute:1:77:1048576")

    assert story["missing"] == {}
    assert story["evidence"] == {
        "idle_used_bytes": [3 * MIB, 4 * MIB],
        "driver_reserved_bytes": [614 * MIB] * 2,
        "foreign_processes": [0, 1],
        "sm_clock_mhz": [1980] * 2,
        "memory_clock_mhz": [3201] * 2,
        "power_watts": [654.321] * 2,
        "temperature_celsius": [62] * 2,
        "power_cap_seconds": [0.074] * 2,
        "thermal_slowdown_seconds": [0.269] * 2,
        "hardware_slowdown_seconds": [0.541] * 2,
        **dict.fromkeys(OF_OTHERS),
    }


def test_without_the_library_there_is_no_nvml(tmp_path: Path) -> None:
    # An empty file stops the loader from finding a real driver behind it.
    (tmp_path / "libnvidia-ml.so.1").touch()

    story = run_child(tmp_path)

    assert story["error"] == "NvmlUnavailable"
    assert "libnvidia-ml.so.1 is not to be found" in story["message"]
    assert "--gpus all" in story["message"]


@pytest.mark.parametrize(
    ("described", "sentence"),
    [
        ({"fail": "nvmlInitWithFlags=18"}, "upgraded under the running system"),
        ({"fail": "nvmlInitWithFlags=4"}, "/dev/nvidiactl"),
        ({"fail": "nvmlInitWithFlags=9"}, "kernel driver is not loaded"),
        ({"fail": "nvmlInitWithFlags=28"}, "NVML does not start: GPU not found"),
        ({"gpus": "0"}, "has no GPU"),
        ({"gpus": "2", "fail": "nvmlDeviceGetHandleByIndex_v2=4"}, "may open none of the 2 GPUs"),
        (
            {"fail": "nvmlDeviceGetHandleByIndex_v2@0=15"},
            "GPU 0 does not answer: nvmlDeviceGetHandleByIndex: GPU is lost",
        ),
        ({"fail": "nvmlDeviceGetUUID@0=15"}, "reset it, or leave it out through CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_keeps_nvml_from_answering_is_said_in_a_sentence(
    machine: Machine, described: dict[str, str], sentence: str
) -> None:
    story = machine(**described)

    assert story["error"] == "NvmlUnavailable"
    assert sentence in story["message"]


@pytest.mark.parametrize(
    ("asked", "visible"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("5,0", [5, 0]),
        (f"{uuid(7)},{uuid(2)}", [7, 2]),
        ("GPU-f0000003", [3]),
        ("GPU-f000000", []),
        ("2,9,3", [2]),
        ("", []),
        ("-1", []),
    ],
)
def test_cuda_visible_devices_chooses_among_eight(machine: Machine, asked: str | None, visible: list[int]) -> None:
    story = machine(gpus="8", **({} if asked is None else {"CUDA_VISIBLE_DEVICES": asked}))

    assert indices(story) == visible
    assert [gpu["uuid"] for gpu in story["gpus"]] == [uuid(index) for index in visible]


def test_a_lost_gpu_does_not_disturb_the_others(machine: Machine) -> None:
    story = machine(gpus="8", fail="nvmlDeviceGetHandleByIndex_v2@3=15", CUDA_VISIBLE_DEVICES="4,2")

    assert indices(story) == [4, 2]


def test_a_gpu_without_permission_is_not_counted(machine: Machine) -> None:
    story = machine(gpus="3", fail="nvmlDeviceGetHandleByIndex_v2@0=4", CUDA_VISIBLE_DEVICES="0")

    assert indices(story) == [1]


def test_indices_among_different_models_are_refused(machine: Machine) -> None:
    story = machine(gpus="2", other="1", CUDA_VISIBLE_DEVICES="1")

    assert story["error"] == "NvmlUnavailable"
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in story["message"]


@pytest.mark.parametrize(
    "variables",
    [
        {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        {"CUDA_VISIBLE_DEVICES": "GPU-f0000001"},
    ],
)
def test_different_models_are_no_obstacle_where_the_order_is_known(machine: Machine, variables: dict[str, str]) -> None:
    assert indices(machine(gpus="2", other="1", **variables)) == [1]


@pytest.mark.parametrize("variables", [{}, {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "MIG-0a1b"}])
def test_mig_is_said_to_be_unsupported(machine: Machine, variables: dict[str, str]) -> None:
    story = machine(gpus="2", mig="1", **variables)

    assert story["error"] == "MigUnsupported"
    assert "split by MIG" in story["message"]


def test_a_gpu_beside_one_split_by_mig_can_be_used(machine: Machine) -> None:
    assert indices(machine(gpus="2", mig="1", CUDA_VISIBLE_DEVICES="0")) == [0]


def test_a_gpu_that_knows_no_mig_is_not_split(machine: Machine) -> None:
    assert machine(fail="nvmlDeviceGetMigMode=3")["gpus"][0]["mig"] is False


def test_without_memory_v2_the_drivers_share_is_unknown(machine: Machine) -> None:
    story = machine(fail="nvmlDeviceGetMemoryInfo_v2=999")

    (occupancy,) = story["occupancy"]
    assert occupancy["used_bytes"] == 617 * MIB
    assert occupancy["driver_reserved_bytes"] is None
    assert "for lack of nvmlDeviceGetMemoryInfo_v2" in occupancy["missing"]["driver_reserved_bytes"]
    assert story["evidence"]["idle_used_bytes"] is None
    assert "counts it as used" in story["missing"]["idle_used_bytes"]


def test_a_gpu_without_memory_of_its_own_says_so(machine: Machine) -> None:
    story = machine(fail="nvmlDeviceGetMemoryInfo_v2=3,nvmlDeviceGetMemoryInfo=3")

    assert story["gpus"][0]["total_memory_bytes"] is None
    assert story["occupancy"][0]["missing"]["used_bytes"] == "nvmlDeviceGetMemoryInfo: Not Supported"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ("nvmlDeviceGetPowerUsage", "power_watts"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_watts"),
        ("field74", "power_cap_ns"),
        ("field269", "sw_thermal_ns"),
        ("field270", "hw_thermal_ns"),
        ("field271", "hw_power_brake_ns"),
    ],
)
def test_one_unsupported_reading_costs_no_other(machine: Machine, call: str, field: str) -> None:
    reading = machine(fail=f"{call}=3")["readings"][0][0]

    missing = reading.pop("missing")
    assert [name for name, value in reading.items() if value is None] == [field]
    assert list(missing) == [field]
    assert "Not Supported" in missing[field]


def test_an_older_driver_gives_the_temperature_by_the_older_call(machine: Machine) -> None:
    reading = machine(fail="nvmlDeviceGetTemperatureV=13")["readings"][0][0]

    assert reading["temperature_celsius"] == 62


def test_a_gpu_lost_while_measuring_leaves_reasons_for_everything(machine: Machine) -> None:
    calls = (
        *("MemoryInfo_v2", "MemoryInfo", "ComputeRunningProcesses_v3", "ClockInfo", "PowerUsage"),
        *("EnforcedPowerLimit", "TemperatureV", "Temperature", "FieldValues", "TotalEnergyConsumption"),
    )

    story = machine(fail=",".join(f"nvmlDeviceGet{call}=15" for call in calls))

    values = {**story["occupancy"][0], **story["readings"][0][0]}
    del values["missing"]
    assert set(values.values()) == {None}
    assert set(story["missing"]) == set(story["evidence"]) - set(OF_OTHERS)
    assert all("GPU is lost" in reason for reason in story["missing"].values())
    assert "GPU is lost" in story["energy"]


def test_host_pids_in_a_container_are_counted_and_not_taken_for_ours(machine: Machine) -> None:
    story = machine(processes="Compute:0:4000001:1073741824,Compute:0:4000002:unknown")

    assert story["occupancy"][0]["process_bytes"] == {"4000001": 1024 * MIB, "4000002": None}
    assert story["evidence"]["foreign_processes"] == [2]


def test_a_process_in_several_lists_is_one_process(machine: Machine) -> None:
    story = machine(processes="Compute:0:self:unknown,Graphics:0:self:2097152,MPSCompute:0:self:1048576")

    assert story["occupancy"][0]["process_bytes"] == {str(story["pid"]): 2 * MIB}


def test_a_gpu_without_graphics_or_mps_has_no_such_processes(machine: Machine) -> None:
    story = machine(
        processes="Compute:0:self:1048576",
        fail="nvmlDeviceGetGraphicsRunningProcesses_v3=3,nvmlDeviceGetMPSComputeRunningProcesses_v3=13",
    )

    assert story["evidence"]["foreign_processes"] == [0]


@pytest.mark.parametrize(("code", "reason"), [(4, "Insufficient Permissions"), (3, "Not Supported")])
def test_without_the_list_of_compute_processes_the_count_is_unknown(machine: Machine, code: int, reason: str) -> None:
    story = machine(fail=f"nvmlDeviceGetComputeRunningProcesses_v3={code}")

    assert story["evidence"]["foreign_processes"] is None
    assert reason in story["missing"]["foreign_processes"]


def test_hidden_processes_are_not_zero_processes(machine: Machine) -> None:
    story = machine()

    assert story["occupancy"][0]["process_bytes"] == {}
    assert story["evidence"]["foreign_processes"] is None
    assert "lists no process although this one uses the GPU" in story["missing"]["foreign_processes"]


@pytest.mark.hardware
def test_a_real_gpu_gives_every_figure(real_nvml: Nvml) -> None:
    gpu = real_nvml.gpu(0)

    assert real_nvml.occupancy(gpu).missing == {}
    assert real_nvml.reading(gpu).missing == {}
    assert real_nvml.energy_millijoules(gpu) > 0
