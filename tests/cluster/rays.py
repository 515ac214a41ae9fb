"""A plugin for runs on the Ray cluster of these tests, as the environment variables of the driver say."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_llmbench.executors import Executor
from pytest_llmbench.executors.local import MEASURE, PRELOAD
from pytest_llmbench.executors.ray_cluster import Cluster, on_cluster


def pytest_llmbench_executor(config: pytest.Config) -> Executor:
    sleeps = "TEST_REAL" not in os.environ
    here: dict[str, Any] = {"working_dir": str(Path(__file__).parent), "patience_seconds": 20.0}
    asked = here | msgspec.json.decode(os.environ["TEST_CLUSTER"])
    cluster = Cluster(**asked | {"working_dir": Path(asked["working_dir"])})
    return on_cluster(
        cluster,
        "cpu" if config.getoption("--llmbench-scale") == "smoke" else "cuda",
        timeout_seconds=120,
        measure="sleepers:measure" if sleeps else MEASURE,
        preload=() if sleeps else PRELOAD,
        seconds=lambda request: float(request.case.model.split()[-1]) if sleeps else 1.0,
        announce=announce,
    )


def announce(sentence: str) -> None:
    with Path("announced.txt").open("a") as stream:
        stream.write(f"{sentence}\n")


def pytest_unconfigure() -> None:
    announce(f"torch in the driver: {'torch' in sys.modules}")
