"""Whatever NVML refuses, loses or misnames is a reason in words; the binding is real, the library built from C."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.conftest import Executor, Suite

RECORD = "--llmbench-missing=record"
SOURCE = Path(__file__).parents[1] / "unit" / "fake_nvml.c"
CODES = (1, 2, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 17, 18, 20, 28, 999, 12345)
"""Of NVML's return values, those that a driver gives, and one that no binding knows."""
READ_ALL = """
import os
from pytest_llmbench.probes import evidence
from pytest_llmbench.host import nvml
from pytest_llmbench.host.visible import visible_gpus

def read_all(between=lambda: None):
    with nvml.open_nvml() as session:
        gpus = visible_gpus(session, os.environ)
        idle, before = [session.occupancy(gpu) for gpu in gpus], [session.reading(gpu) for gpu in gpus]
        between()
        busy, after = [session.occupancy(gpu) for gpu in gpus], [session.reading(gpu) for gpu in gpus]
        found, missing = evidence.evidence(idle, busy, before, after, evidence.process_tree(os.getpid()))
        try:
            energy = [session.energy_millijoules(gpu) for gpu in gpus]
        except nvml.NvmlUnavailable as error:
            energy = str(error)
        return {"evidence": found, "missing": missing, "energy": energy, "gpus": gpus}
"""


def uuid(index: int) -> str:
    return f"GPU-f000000{index:x}-0000-4000-8000-{index:012x}"


@pytest.fixture
def child(fake_nvml: Path) -> Callable[..., Any]:
    """Runs a script after `READ_ALL` on a machine described by the fake's variables; what it prints as JSON."""

    def run(script: str, **variables: str) -> Any:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        environ |= {"LD_LIBRARY_PATH": str(fake_nvml)} | {f"FAKE_NVML_{name}": text for name, text in variables.items()}
        done = subprocess.run(
            [sys.executable, "-c", READ_ALL + script], env=environ, stdout=subprocess.PIPE, check=True, timeout=60
        )
        return json.loads(done.stdout)

    return run


def test_every_call_may_fail_with_every_code(child: Callable[..., Any]) -> None:
    calls = re.findall(r"^(?:int |GIVES\(|LISTS\()(nvml\w+)", SOURCE.read_text(), re.MULTILINE)
    assert len(calls) > 15

    told = child(
        f"""
import json
told = {{}}
for call in {calls!r}:
    for code in {CODES!r}:
        os.environ["FAKE_NVML_FAIL"] = f"{{call}}={{code}}"
        try:
            all_read = read_all()
            told[f"{{call}} {{code}}"] = list(all_read["missing"].values())
        except nvml.NvmlUnavailable as error:
            told[f"{{call}} {{code}}"] = [str(error)]
        except Exception as error:
            told[f"{{call}} {{code}}"] = [f"!{{error!r}}"]
print(json.dumps(told))
"""
    )

    assert len(told) == len(calls) * len(CODES)
    assert {name: reasons for name, reasons in told.items() if any(not one or one[0] == "!" for one in reasons)} == {}


def test_a_gpu_that_is_lost_between_two_readings_leaves_reasons(child: Callable[..., Any], tmp_path: Path) -> None:
    calls = (
        *("MemoryInfo_v2", "MemoryInfo", "ComputeRunningProcesses_v3", "ClockInfo", "PowerUsage"),
        *("EnforcedPowerLimit", "TemperatureV", "Temperature", "FieldValues", "TotalEnergyConsumption"),
    )

    told = child(
        f"""
import msgspec, sys
from pathlib import Path
sys.stdout.buffer.write(msgspec.json.encode(read_all(Path({str(tmp_path / "lost")!r}).touch)))
""",
        FAIL=",".join(f"nvmlDeviceGet{call}=15" for call in calls),
        FAIL_ONCE=str(tmp_path / "lost"),
    )

    assert told["evidence"]["idle_used_bytes"] == [3 * 2**20]
    assert told["evidence"]["sm_clock_mhz"] is None
    assert set(told["missing"]) >= {"foreign_processes", "sm_clock_mhz", "power_cap_seconds"}
    assert all("GPU is lost" in reason for reason in told["missing"].values())
    assert "GPU is lost" in told["energy"]


def test_a_field_of_a_type_that_is_not_known_is_a_reason(child: Callable[..., Any]) -> None:
    told = child("import msgspec, sys\nsys.stdout.buffer.write(msgspec.json.encode(read_all()))", TYPE="42")

    assert told["missing"]["power_cap_seconds"].endswith("its value is of type 42, which is not known")


def on_gpus(suite: Suite, folder: Path, **variables: str) -> Suite:
    suite.environ["LD_LIBRARY_PATH"] = str(folder)
    suite.environ |= {f"FAKE_NVML_{name}": text for name, text in variables.items()}
    return suite


BROKEN = [
    ({"FAIL": "nvmlInitWithFlags=18"}, "the NVIDIA driver was upgraded under the running system"),
    ({"FAIL": "nvmlInitWithFlags=4"}, "this user has no access to /dev/nvidiactl"),
    ({"FAIL": "nvmlInitWithFlags=9"}, "the NVIDIA kernel driver is not loaded"),
    ({"FAIL": "nvmlDeviceGetHandleByIndex_v2=15"}, "GPU 0 does not answer: nvmlDeviceGetHandleByIndex: GPU is lost"),
    ({"MIG": "0"}, "is split by MIG, whose parts cannot be measured"),
    ({"GPUS": "0"}, "the NVIDIA driver runs but has no GPU"),
    ({"NAME": b"H\xff200".decode(errors="surrogateescape")}, "nvmlDeviceGetName: its answer is not UTF-8"),
]


@pytest.mark.parametrize(("variables", "told"), BROKEN)
def test_a_broken_gpu_node_skips_with_the_reason_and_is_never_green_where_that_counts(
    suite: Suite, fake_nvml: Path, variables: dict[str, str], told: str
) -> None:
    suite.rows("ok")
    on_gpus(suite, fake_nvml, **variables)

    skipped = suite.run(RECORD, "--llmbench-strict", "-rs", plugin="no:nothing")
    refused = suite.run(RECORD, "--llmbench-device=cuda", plugin="no:nothing")

    assert "SKIPPED [1]" in skipped.text
    assert told in skipped.text
    assert skipped.status == pytest.ExitCode.TESTS_FAILED
    assert told in refused.text
    assert refused.status == pytest.ExitCode.USAGE_ERROR


def test_without_the_library_a_run_says_what_is_missing(suite: Suite, tmp_path: Path) -> None:
    # An empty file stops the loader from finding a real driver behind it.
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "libnvidia-ml.so.1").touch()
    suite.rows("ok")

    ended = on_gpus(suite, tmp_path / "empty").run("--llmbench-device=cuda", plugin="no:nothing")

    assert ended.status == pytest.ExitCode.USAGE_ERROR
    assert "libnvidia-ml.so.1 is not to be found" in ended.text


@pytest.mark.parametrize("asked", ["5,0", f"{uuid(5)},{uuid(0)}", "GPU-f0000005"])
def test_of_eight_gpus_the_process_sees_the_one_that_was_asked_for(suite: Suite, fake_nvml: Path, asked: str) -> None:
    suite.rows("ok")
    suite.environ["CUDA_VISIBLE_DEVICES"] = asked
    suite.environ["TMPDIR"] = str(suite.folder)

    ended = on_gpus(suite, fake_nvml, GPUS="8").run(RECORD, plugin="gpus")

    assert ended.status == 0, ended.text
    (result,) = suite.results()
    assert result.measurement.processes[0].ran["devices"] == uuid(5)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_gpu_that_vanishes_before_its_case_crashes_that_case_in_a_sentence(
    new_executor: Callable[..., Executor], fake_nvml: Path
) -> None:
    executor = new_executor(measure="pytest_llmbench.worker.entry:measure")
    executor.environ |= {
        "LD_LIBRARY_PATH": str(fake_nvml),
        "FAKE_NVML_FAIL": "nvmlDeviceGetHandleByIndex_v2=15,nvmlDeviceGetHandleByUUID=15",
    }

    measurement = executor.run("ok", device="cuda", visible_devices=uuid(0))

    assert measurement.outcome == "crashed"
    assert "needs 1 GPUs, this process sees 0" in (measurement.reason or "")
