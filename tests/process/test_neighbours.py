"""Cases on one machine see each other, whichever run they belong to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_llmbench.executors.neighbours import marked, present
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import failed
from pytest_llmbench.schema.workload import Workload

ANOTHER = """
import sys
from pytest_llmbench.executors.neighbours import present

with present():
    print("there", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / f"pytest-llmbench-{os.getuid()}" / "cases"


@contextmanager
def another_run() -> Iterator[subprocess.Popen[str]]:
    """Another process that measures until its end."""
    command = [sys.executable, "-c", ANOTHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_case_alone_has_no_neighbours() -> None:
    with present() as neighbours:
        pass

    assert neighbours.most == 0


def test_cases_of_other_runs_count() -> None:
    with another_run(), another_run(), present() as neighbours:
        assert neighbours.most == 2


def test_one_that_comes_and_goes_meanwhile_counts_if_it_is_looked_for() -> None:
    with present() as neighbours:
        with another_run():
            neighbours.look()
        neighbours.look()

    assert neighbours.most == 1


def test_what_a_killed_run_left_behind_counts_for_nothing(folder: Path) -> None:
    with another_run() as process:
        process.kill()
        process.wait()
        assert len(list(folder.iterdir())) == 1

        with present() as neighbours:
            assert neighbours.most == 0

    assert list(folder.iterdir()) == []


def test_without_a_folder_the_neighbours_are_not_known(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("")

    with present() as neighbours:
        neighbours.look()

    assert neighbours.most is None


def test_a_measurement_is_marked_with_what_is_known() -> None:
    measurement = failed(Case(model="qwen-7b-chat"), Workload(), "oom", "full", measured_at="")

    assert marked(measurement, 3).processes[0].neighbours == 3
    assert marked(measurement, None) == measurement
