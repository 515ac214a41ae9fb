"""CUDA's rules for CUDA_VISIBLE_DEVICES; what NVML adds to them is in `test_nvml`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pytest_llmbench.host.nvml import MigUnsupported, NvmlUnavailable, open_nvml
from pytest_llmbench.host.visible import visible_gpus, visible_positions

UUIDS = ("GPU-8932f937-d72c", "GPU-8932aaaa-0b1d", "GPU-41c0ffee-5e7a", None)

CUDA = """
import ctypes, json, uuid
cuda = ctypes.CDLL("libcuda.so.1")
cuda.cuInit(0)
count = ctypes.c_int(0)
cuda.cuDeviceGetCount(ctypes.byref(count))
found = []
for device in range(count.value):
    raw = (ctypes.c_ubyte * 16)()
    cuda.cuDeviceGetUuid_v2(raw, device)
    found.append(f"GPU-{uuid.UUID(bytes=bytes(raw))}")
print(json.dumps(found))
"""
"""Prints the UUIDs of the devices that CUDA itself shows a process."""


@pytest.mark.parametrize(
    ("asked", "positions"),
    [
        (None, (0, 1, 2, 3)),
        ("0", (0,)),
        ("2,0", (2, 0)),
        (" 2, 0", (2, 0)),
        ("3", (3,)),
        ("4", ()),
        ("1,4,0", (1,)),
        ("1,-1,0", (1,)),
        ("1,,0", (1,)),
        ("1,GPU-41,0", (1,)),
        ("1st,2nd", (1, 2)),
        ("-0,+1", (0, 1)),
        ("1,2,1", ()),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("all", ()),
        ("GPU-41c0ffee-5e7a", (2,)),
        ("GPU-4", (2,)),
        ("GPU-41,GPU-8932f", (2, 0)),
        ("GPU-41,GPU-8932,GPU-8932f", (2,)),
        ("GPU-41,0", (2,)),
        ("GPU-41,GPU-41c0", ()),
        ("GPU-", ()),
        ("gpu-41c0ffee-5e7a", ()),
        (" GPU-41c0ffee-5e7a", ()),
        ("GPU-41C0FFEE5E", (2,)),
        ("GPU-41z", ()),
    ],
)
def test_cuda_visible_devices_shows(asked: str | None, positions: tuple[int, ...]) -> None:
    assert visible_positions(asked, UUIDS) == positions


@pytest.mark.parametrize("asked", ["MIG-3f1a", "MIG-GPU-8932f937-d72c/1/0"])
def test_a_mig_device_cannot_be_measured(asked: str) -> None:
    with pytest.raises(MigUnsupported, match=f"{asked} is a part of a GPU split by MIG"):
        visible_positions(asked, UUIDS)


@pytest.mark.parametrize(
    "uuid", ["GPU-41c0ffee-5e7a-4b1c-9d2e-0123456789ab", "GPU-41c0ffee-5e7a-4b1c-9d2e-0123456789abz"]
)
def test_what_follows_a_whole_uuid_is_ignored(uuid: str) -> None:
    assert visible_positions(uuid, ["GPU-41c0ffee-5e7a-4b1c-9d2e-0123456789ab"]) == (0,)


INDICES = (
    None,
    "0",
    "1",
    "1,0",
    "",
    "-1",
    "-0",
    "0,0",
    "0,99",
    "99,0",
    "0,-1,1",
    "0,,1",
    " 0",
    "0 , 1",
    "0th",
    "+0",
    "NoDevFiles",
)
FORMS = (
    "{0}",
    "{1},{0}",
    "{0},{0}",
    "{0},1",
    "0,{1}",
    "{0},GPU-nonsense,{1}",
    "GPU-",
    "{short}",
    "{upper}",
    "{plain}",
    "{0}z",
    " {0}",
)


@pytest.mark.hardware
@pytest.mark.parametrize("asked", [*INDICES, *FORMS])
def test_cuda_agrees(asked: str | None) -> None:
    try:
        with open_nvml() as nvml:
            uuids = [gpu.uuid for gpu in visible_gpus(nvml, {})] * 2
            forms = {
                "short": uuids[0][:12],
                "upper": f"GPU-{uuids[0][4:].upper()}",
                "plain": f"GPU-{uuids[0][4:].replace('-', '')}",
            }
            environ = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
            if asked is not None:
                environ["CUDA_VISIBLE_DEVICES"] = asked.format(*uuids, **forms)
            ours = [gpu.uuid for gpu in visible_gpus(nvml, environ)]
    except NvmlUnavailable as error:
        pytest.skip(str(error))

    child = subprocess.run([sys.executable, "-c", CUDA], env=environ, stdout=subprocess.PIPE, check=True, timeout=60)

    assert json.loads(child.stdout) == ours
