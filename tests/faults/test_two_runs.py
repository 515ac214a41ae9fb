"""Two runs of pytest at once: on one GPU they take turns, and in one file of baselines both have their rows."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import marked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nursery import Nursery
    from tests.faults.conftest import Suite

RECORD = "--llmbench-missing=record"


@pytest.fixture
def two(
    suite: Suite,
    nursery: Callable[[Mapping[str, str]], Nursery],
    tmp_path_factory: pytest.TempPathFactory,
    fake_nvml: Path,
) -> tuple[Suite, Suite]:
    """Two checkouts on a machine with one GPU."""
    other = type(suite)(tmp_path_factory.mktemp("other"), nursery)
    locks = tmp_path_factory.mktemp("locks")
    for each in (suite, other):
        each.environ["TMPDIR"] = str(locks)
        each.environ["LD_LIBRARY_PATH"] = str(fake_nvml)
        each.environ[marked.MARK] = suite.mark
    return suite, other


def test_the_second_run_on_a_gpu_waits_and_says_for_whom(two: tuple[Suite, Suite]) -> None:
    first, second = two
    first.rows("hang")
    second.rows("ok")
    holder = first.start(RECORD, plugin="gpus")
    holder.await_measuring("hang")

    waiting = second.start(RECORD, "-s", plugin="gpus")
    shown = waiting.read_until("waiting for GPU")
    assert f"held by pid {holder.pid}" in shown
    assert not second.result_file.read_bytes()
    holder.send(signal.SIGINT)
    holder.end()

    assert waiting.end().status == 0
    assert [result.measurement.outcome for result in second.results()] == ["ok"]


def test_a_run_that_is_killed_gives_its_gpu_to_the_one_that_waits(two: tuple[Suite, Suite]) -> None:
    first, second = two
    first.rows("hang")
    second.rows("ok")
    holder = first.start(RECORD, plugin="gpus")
    holder.await_measuring("hang")
    waiting = second.start(RECORD, plugin="gpus")
    waiting.read_until("waiting for GPU")
    holder.send(signal.SIGKILL)
    holder.end()

    assert waiting.end().status == 0
    assert first.resume(RECORD).status == 0


def test_a_run_interrupted_while_it_waits_measures_nothing(two: tuple[Suite, Suite]) -> None:
    first, second = two
    first.rows("hang")
    second.rows("ok")
    holder = first.start(RECORD, plugin="gpus")
    holder.await_measuring("hang")
    waiting = second.start(RECORD, plugin="gpus")
    waiting.read_until("waiting for GPU")
    waiting.send(signal.SIGINT)

    assert waiting.end().status == pytest.ExitCode.INTERRUPTED
    assert not second.result_file.exists()
    holder.send(signal.SIGINT)
    holder.end()
    assert second.run(RECORD, plugin="gpus").status == 0


def test_a_lease_that_cannot_be_taken_ends_the_run_before_it_measures(two: tuple[Suite, Suite]) -> None:
    suite, _ = two
    suite.rows("ok-1", "ok-2")
    Path(suite.environ["TMPDIR"], f"pytest-llmbench-{os.getuid()}").touch()

    ended = suite.run(RECORD, plugin="gpus")

    assert ended.status != 0
    assert "a GPU cannot be leased there: File exists; set TMPDIR to a folder" in ended.text
    assert not list(suite.folder.glob("*.reached"))


def test_rows_that_two_runs_record_at_once_are_all_kept(suite: Suite, tmp_path: Path) -> None:
    names = {table: [f"ok-{table}{number}" for number in range(12)] for table in ("a", "b")}
    for table, rows in names.items():
        suite.rows(*rows)
        (suite.folder / "test_speed.py").rename(suite.folder / f"test_{table}.py")
    runs = [suite.start(RECORD, f"test_{table}.py", f"--llmbench-results={table}.jsonl") for table in names]

    assert [run.end().status for run in runs] == [0, 0]
    assert suite.recorded() == sorted([*names["a"], *names["b"]])
