"""What tests and their processes run in: an environment of which each names only what it is about, and a path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from pytest_llmbench.schema.environment import Environment

__all__ = ["environment", "python_path"]

_PLAIN = Environment(
    device="NVIDIA H200",
    num_devices=1,
    device_memory_bytes=None,
    driver=None,
    cuda=None,
    power_limit_watts=None,
    allocator={},
    python="3.12.3",
    cpu="a CPU",
    num_cpus=1,
    system="Linux",
    packages={},
)


def environment(**fields: Any) -> Environment:
    """One GPU and nothing known of its software, but for *fields*."""
    return msgspec.structs.replace(_PLAIN, **fields)


def python_path(*folders: Path) -> str:
    """PYTHONPATH of a process that imports from *folders*, and from this module's."""
    here = Path(__file__).parent
    return os.pathsep.join(filter(None, [*map(str, folders), str(here), os.environ.get("PYTHONPATH")]))
