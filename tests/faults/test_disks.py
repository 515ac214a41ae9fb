"""A disk that is full, a folder that may not be written to: no stored row is lost, and no run goes on in vain."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmbench.store.results import latest

if TYPE_CHECKING:
    from tests.faults.conftest import Suite

RECORD = "--llmbench-update=all"
OBEY_PERMISSIONS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; fails for users who have neither
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a command that permissions hold for, also where root starts it."""
ON_A_FULL_DISK = """
set -e
cp -a "$0" before
mount -t tmpfs -o size=64k none "$0"
cp -a before/. "$0"
dd if=/dev/zero of="$0/filler" bs=4096 2> /dev/null || true
set +e
"$@"
status=$?
cp -a "$0" after
exit $status
"""
"""Runs a command while a folder, as it is, lies on a disk without a free block; leaves what it became in `after`."""
NAMESPACES = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])


@pytest.fixture
def full_disk(suite: Suite) -> Iterator[str]:
    """A folder of the suite that is on a full disk in the runs to come; what they made of it is in `after`."""
    folder = suite.folder / "disk"
    folder.mkdir()
    for namespace in NAMESPACES:
        command = [*namespace, "mount", "-t", "tmpfs", "none", str(folder)]
        if shutil.which("unshare") and subprocess.run(command, check=False, capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("no disk can be made here; that needs root or user namespaces")
    suite.prefix = [*namespace, "sh", "-c", ON_A_FULL_DISK, folder.name]
    yield folder.name
    suite.prefix = ()


@pytest.fixture
def obedient(suite: Suite) -> Suite:
    """Its runs obey permissions, whoever runs this test."""
    suite.prefix = [sys.executable, "-c", OBEY_PERMISSIONS]
    return suite


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir()
    yield folder
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o700)


def test_a_full_disk_of_baselines_fails_the_row_and_keeps_every_stored_row(suite: Suite, full_disk: str) -> None:
    baselines = f"--llmbench-baselines={full_disk}"
    prefix, suite.prefix = suite.prefix, ()
    suite.rows("ok-1")
    assert suite.run(RECORD, baselines).status == 0
    suite.rows("ok-1", "ok-2")
    suite.prefix = prefix

    ended = suite.run("--llmbench-update=missing", baselines)

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert f"{full_disk}/cpu/speed.json: cannot be written: No space left on device" in ended.text
    before, after = suite.folder / "before" / "cpu", suite.folder / "after" / "cpu"
    assert (after / "speed.json").read_bytes() == (before / "speed.json").read_bytes()
    assert [path.name for path in after.iterdir()] == ["speed.json"]
    assert [(result.row, result.decision) for result in latest(suite.results())] == [("ok-1", "pass"), ("ok-2", "fail")]
    suite.prefix = ()
    assert suite.resume("--llmbench-update=missing", baselines).status == 0


def test_a_full_disk_of_results_ends_the_run_and_keeps_what_was_written(suite: Suite, full_disk: str) -> None:
    suite.rows("ok-1")
    prefix, suite.prefix = suite.prefix, ()
    assert suite.run(RECORD).status == 0
    suite.result_file.rename(suite.folder / full_disk / "r.jsonl")
    suite.rows("ok-1", *(f"ok-{number}" for number in range(2, 9)))
    suite.prefix = prefix

    ended = suite.run(f"--llmbench-results={full_disk}/r.jsonl", RECORD)

    assert ended.status == pytest.ExitCode.INTERRUPTED
    assert f"{full_disk}/r.jsonl: a result could not be written: No space left on device" in ended.text
    assert "ok-8" not in ended.text
    written = (suite.folder / "after" / "r.jsonl").read_bytes()
    assert written.startswith((suite.folder / "before" / "r.jsonl").read_bytes())
    assert not written.endswith(b"\n")  # the result that found no more room was begun
    suite.prefix = ()
    suite.result_file.write_bytes(written)
    assert suite.resume(RECORD).status == 0
    assert [result.row for result in latest(suite.results())] == [f"ok-{number}" for number in range(1, 9)]


def test_a_baseline_that_may_not_grow_any_more_is_kept_as_it_was(suite: Suite) -> None:
    suite.rows(*(f"ok-{number}" for number in range(9)))
    assert suite.run(RECORD).status == 0
    path = suite.folder / "baselines" / "cpu" / "speed.json"
    before = path.read_bytes()
    suite.result_file.unlink()
    suite.rows("ok-new")
    suite.environ["LLMBENCH_TEST_FILE_BYTES"] = str(len(before))

    ended = suite.run(RECORD)

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert "speed.json: cannot be written: File too large" in ended.text
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["speed.json"]
    assert [result.row for result in suite.results()] == ["ok-new"]


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])
def test_a_result_file_that_may_not_grow_any_more_ends_the_run_with_its_tables(
    suite: Suite, options: tuple[str, ...]
) -> None:
    if options and find_spec("xdist") is None:
        pytest.skip("pytest-xdist is not installed")
    suite.rows("ok-1")
    assert suite.run(RECORD).status == 0
    line = suite.result_file.read_bytes()
    suite.rows("ok-1", *(f"slow-{number}" for number in range(2, 9)))
    suite.environ["LLMBENCH_TEST_FILE_BYTES"] = str(2 * len(line) + 100)

    ended = suite.run("--llmbench-missing=skip", *options)

    assert ended.status == pytest.ExitCode.INTERRUPTED
    assert "r.jsonl: a result could not be written: File too large" in ended.text
    assert "llmbench: 1 unchanged" in ended.text
    assert suite.result_file.read_bytes().startswith(line)
    del suite.environ["LLMBENCH_TEST_FILE_BYTES"]
    assert suite.resume("--llmbench-update=missing").status == 0
    assert len(latest(suite.results())) == 8


def test_baselines_that_may_only_be_read_are_judged_against_and_not_changed(obedient: Suite, read_only: Path) -> None:
    baselines = f"--llmbench-baselines={read_only}"
    obedient.rows("ok-1")
    assert obedient.run(RECORD, baselines).status == 0
    path = read_only / "cpu" / "speed.json"
    before = path.read_bytes()
    (read_only / "cpu").chmod(0o500)
    read_only.chmod(0o500)
    obedient.rows("ok-1", "ok-2")

    ended = obedient.run("--llmbench-update=missing", baselines)

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert "speed.json: cannot be written: Permission denied" in ended.text
    assert path.read_bytes() == before
    rows = {result.row: (result.decision, result.verdict.status) for result in obedient.results()}
    assert rows == {"ok-1": ("pass", "unchanged"), "ok-2": ("fail", "no baseline")}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_results_that_may_not_be_written_stop_the_run_before_it_measures(
    obedient: Suite, read_only: Path, kind: str
) -> None:
    obedient.rows("ok-1")
    (read_only / "old.jsonl").touch(mode=0o400)
    read_only.chmod(0o500)

    ended = obedient.run(f"--llmbench-results={read_only / ('new.jsonl' if kind == 'folder' else 'old.jsonl')}")

    assert ended.status == pytest.ExitCode.USAGE_ERROR
    assert "jsonl: results cannot be written there: Permission denied" in ended.text
    assert not list(obedient.folder.glob("*.reached"))


def test_a_baseline_that_may_not_be_read_fails_its_row(obedient: Suite) -> None:
    obedient.rows("ok-1")
    assert obedient.run(RECORD).status == 0
    path = obedient.folder / "baselines" / "cpu" / "speed.json"
    path.chmod(0)

    ended = obedient.run()

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert "speed.json: cannot be read: Permission denied" in ended.text
    assert path.stat().st_size > 0
