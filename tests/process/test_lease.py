"""Two runs never measure on one GPU at the same time."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_llmbench.executors.lease import GpuHeldError, LeaseFolderError, lease

HOLDER = """
import sys
from pytest_llmbench.executors.lease import lease

with lease(sys.argv[1:], print):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / f"pytest-llmbench-{os.getuid()}"


@contextmanager
def another_run(*uuids: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds GPUs until a line or its death."""
    command = [sys.executable, "-c", HOLDER, *uuids]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_free_gpu_is_leased_in_silence(folder: Path) -> None:
    announced: list[str] = []
    with lease(["GPU-b", "GPU-a"], announced.append):
        assert (folder / "GPU-a.pid").read_text() == str(os.getpid())

    assert announced == []


def test_the_folder_is_for_this_user_only(folder: Path) -> None:
    with lease(["GPU-a"], print):
        pass

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    folder.symlink_to(tmp_path)

    with pytest.raises(LeaseFolderError, match="belongs to another user"), lease(["GPU-a"], print):
        pass


def test_a_held_gpu_is_waited_for_and_its_holder_named_once() -> None:
    announced: list[str] = []
    with another_run("GPU-a") as holder:

        def announce(sentence: str) -> None:
            announced.append(sentence)
            holder.communicate("done\n")

        with lease(["GPU-a"], announce, timeout=20):
            pass

    assert announced == [f"waiting for GPU GPU-a, held by pid {holder.pid}"]


def test_waiting_ends_with_the_timeout() -> None:
    with (
        another_run("GPU-a") as holder,
        pytest.raises(GpuHeldError, match=re.escape(f"GPU GPU-a is still held by pid {holder.pid}")),
        lease(["GPU-a"], lambda _: None, timeout=0.3),
    ):
        pass


def test_a_run_that_dies_gives_its_gpu_back() -> None:
    with another_run("GPU-a") as holder:
        holder.kill()
        holder.wait()

        with lease(["GPU-a"], pytest.fail, timeout=5):
            pass


def test_a_lease_that_fails_half_way_gives_back_what_it_had() -> None:
    with another_run("GPU-b"), pytest.raises(GpuHeldError), lease(["GPU-a", "GPU-b"], lambda _: None, timeout=0.1):
        pass

    with lease(["GPU-a"], pytest.fail, timeout=5):
        pass


def test_different_gpus_are_leased_side_by_side() -> None:
    with another_run("GPU-b"), lease(["GPU-a"], pytest.fail, timeout=5):
        pass
