"""`llmbench doctor`: what it finds on machines with and without a GPU, over real child processes and a fake NVML."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_llmbench.cli.diagnosis import Backend, Diagnosis, GpuState, check_backends, steering_variables
from pytest_llmbench.cli.doctor import lines

COMMAND = "import typer; from pytest_llmbench.cli.doctor import doctor; a = typer.Typer(); a.command()(doctor); a()"
QUICK = "from pytest_llmbench.cli import diagnosis as d; d.LIBRARIES = (); d.get_args = lambda kind: ();"
"""Leaves out what imports torch; the checks themselves are tested below."""
GIB = 2**30


def checked(*names: str, folder: Path, monkeypatch: pytest.MonkeyPatch, timeout: float = 60.0) -> dict[str, Backend]:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    found = check_backends([f"library:{name}" for name in names], sys.executable, timeout)
    return {backend.name: backend for backend in found}


def module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return name


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")} | variables
    command = [sys.executable, "-c", QUICK + COMMAND, *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module", name="fake_gpu")
def _fake_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which NVML knows a GPU."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler to build the fake NVML with")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, Path(__file__).with_name("fake_nvml.c")], check=True)
    return {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(library.parent), os.environ.get("LD_LIBRARY_PATH")]))}


def gpu(**changes: Any) -> GpuState:
    quiet = GpuState(
        index=0,
        uuid="GPU-0",
        name="NVIDIA H200",
        total_bytes=141 * GIB,
        used_bytes=0,
        driver_reserved_bytes=GIB,
        processes={},
        sm_clock_mhz=1980,
        memory_clock_mhz=3201,
        temperature_celsius=30,
        power_watts=75.0,
        power_limit_watts=700.0,
        held_down_by=(),
        energy_counter=True,
        missing={},
    )
    return msgspec.structs.replace(quiet, **changes)


def diagnosis(**changes: Any) -> Diagnosis:
    healthy = Diagnosis(
        device="cuda",
        python="3.12.3",
        system="Linux",
        cpus=16,
        nvml_binding="13.0",
        driver="580.1",
        no_gpu=None,
        gpus=(gpu(),),
        own_pid_namespace=True,
        variables={},
        backends=(Backend(kind="library", name="torch", version="2.12.0"), Backend(kind="device", name="cuda")),
    )
    return msgspec.structs.replace(healthy, **changes)


def test_a_healthy_machine_has_no_obstacle_and_no_warning() -> None:
    assert diagnosis().obstacles == ()
    assert diagnosis().warnings == ()
    assert list(lines(diagnosis()))[-1] == "llmbench: full-scale rows can be measured here"


def test_no_gpu_is_an_obstacle_and_miniatures_are_hinted_at() -> None:
    found = diagnosis(no_gpu="no driver", gpus=())

    assert found.obstacles == ("no CUDA device: no driver",)
    assert "llmbench doctor --device cpu" in list(lines(found))[-1]


def test_for_the_cpu_no_gpu_is_no_obstacle() -> None:
    assert diagnosis(no_gpu="no driver", gpus=(), device="cpu").obstacles == ()


def test_a_library_that_every_case_needs_is_an_obstacle_and_others_are_not() -> None:
    broken = Backend(kind="library", name="peft", trouble="ImportError: x")
    optional = Backend(kind="library", name="xformers", trouble="ImportError: y")

    assert diagnosis(backends=(broken, optional)).obstacles == ("peft: ImportError: x",)


def test_a_device_that_torch_cannot_use_is_an_obstacle() -> None:
    refused = Backend(kind="device", name="cuda", trouble="RuntimeError: driver too old")

    assert diagnosis(backends=(refused,)).obstacles == ("torch on cuda: RuntimeError: driver too old",)


@pytest.mark.parametrize(
    ("state", "warning"),
    [
        (gpu(processes={7: GIB, 8: None}), "GPU 0 is used by 2 other processes"),
        (gpu(used_bytes=3 * GIB), "GPU 0 has 3.00 GiB in use, by nobody that can be seen from here"),
        (gpu(held_down_by=("its temperature",)), "clocks are held down by its temperature"),
    ],
)
def test_what_would_spoil_a_measurement_is_a_warning(state: GpuState, warning: str) -> None:
    [told] = diagnosis(gpus=(state,)).warnings

    assert warning in told


def test_what_nvml_does_not_say_is_unknown_with_its_reason() -> None:
    state = gpu(power_watts=None, processes=None, missing={"power_watts": "not supported"})
    text = "\n".join(lines(diagnosis(gpus=(state,))))

    assert "power               unknown of 700 W" in text
    assert "other processes     unknown" in text
    assert "no power_watts      not supported" in text


def test_a_library_tells_its_version_and_how_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = module(tmp_path, "slow", "import time; time.sleep(0.2)")
    found = checked("msgspec", slow, folder=tmp_path, monkeypatch=monkeypatch)

    assert found["msgspec"].version == msgspec.__version__
    assert found["slow"].seconds >= 0.2
    assert found["slow"].usable


def test_a_library_that_is_not_installed_is_absent_and_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checked("no_such_library", folder=tmp_path, monkeypatch=monkeypatch)["no_such_library"]

    assert (found.absent, found.trouble) == ("not installed", None)


def test_a_library_that_does_not_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = module(tmp_path, "broken", "raise OSError('libcudart.so.11: cannot open\\nshared object')")
    found = checked(broken, folder=tmp_path, monkeypatch=monkeypatch)["broken"]

    assert found.trouble == "OSError: libcudart.so.11: cannot open shared object"


def test_a_library_that_kills_its_process_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadly = module(tmp_path, "deadly", "import os; os.abort()")
    found = checked("json", deadly, "csv", folder=tmp_path, monkeypatch=monkeypatch)

    assert found["deadly"].trouble == "killed by SIGABRT"
    assert found["json"].usable
    assert found["csv"].usable


def test_a_library_that_never_loads_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = module(tmp_path, "endless", "import time; time.sleep(60)")
    found = checked(endless, "csv", folder=tmp_path, monkeypatch=monkeypatch, timeout=1.0)

    assert found["endless"].trouble == "did not load within 1 s"
    assert found["csv"].usable


def test_a_library_that_prints_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chatty = module(tmp_path, "chatty", "print('{\"check\": 1}'); print('welcome')")

    assert checked(chatty, folder=tmp_path, monkeypatch=monkeypatch)["chatty"].usable


def test_an_interpreter_without_the_package_is_told_as_such(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    [found] = check_backends(["library:json"], str(script), 10.0)

    assert found.trouble == f"{script} cannot run pytest_llmbench: exited with status 3"


def test_variables_that_steer_the_allocator_are_shown() -> None:
    environ = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "CUDA_VISIBLE_DEVICES": "1", "HOME": "/root"}

    assert list(steering_variables(environ)) == ["CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF"]


def test_without_a_gpu_the_command_says_so_and_fails() -> None:
    # Hidden also where there is one.
    ran = doctor(CUDA_VISIBLE_DEVICES="")

    assert ran.returncode == 1
    assert "llmbench: no CUDA device: " in ran.stdout
    assert ran.stderr == ""


def test_a_gpu_is_described(fake_gpu: dict[str, str]) -> None:
    ran = doctor("--json", **fake_gpu)

    [found] = json.loads(ran.stdout)["gpus"]
    assert found["name"]
    assert found["total_bytes"] > 0
    assert found["processes"] is not None


def test_json_has_what_the_text_has() -> None:
    told = json.loads(doctor("--json", CUDA_VISIBLE_DEVICES="").stdout)

    assert told["obstacles"]
    assert {"python", "system", "cpus", "variables", "own_pid_namespace", "backends"} <= set(told)
