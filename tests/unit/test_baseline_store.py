"""The store of baselines: rows go in whole or not at all, and nobody's row is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import msgspec
import pytest

import surroundings
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, Process
from pytest_llmbench.schema.metrics import Tolerance
from pytest_llmbench.schema.workload import Injection, Workload
from pytest_llmbench.store import baselines as store_module
from pytest_llmbench.store.baseline import BaselineError, BaselineFile, decode, encode
from pytest_llmbench.store.baselines import BaselineStore, folder_name
from pytest_llmbench.store.update import RefusedUpdate

ENVIRONMENT = surroundings.environment(
    driver="580.159.04", cuda="13.0", num_cpus=16, system="Linux 6.8", packages={"torch": "2.11.0"}
)


def a_process(**metrics: Any) -> Process:
    return Process(outcome="ok", metrics=metrics or {"samples_per_second": 3.09})


def a_measurement(**changes: Any) -> Measurement:
    default = Measurement(
        case=Case(model="qwen-7b-chat"),
        workload=Workload(),
        environment=ENVIRONMENT,
        processes=(a_process(),),
        measured_at="2026-11-24T10:00:00Z",
    )
    return msgspec.structs.replace(default, **changes)


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.fixture
def store(tmp_path: Path) -> BaselineStore:
    return BaselineStore(tmp_path / "baselines")


def test_a_recorded_row_is_found_again_by_a_new_store(store: BaselineStore) -> None:
    measurement = a_measurement(processes=(a_process(), a_process(samples_per_second=3.1)))

    store.record("quantization", "qwen-7b-chat-bf16", measurement, "first run here")

    found = BaselineStore(store.root).find(a_measurement(), "quantization", "qwen-7b-chat-bf16")
    assert found is not None
    assert found.measurement == measurement


def test_why_and_when_a_row_was_recorded_is_stored(store: BaselineStore) -> None:
    store.record("quantization", "a", a_measurement(), "first run here")

    file = store.load("nvidia-h200", "quantization")
    assert file is not None
    assert (file.rows["a"].recorded_because, file.rows["a"].recorded_at) == ("first run here", "2026-11-24T10:00:00Z")


@pytest.mark.parametrize(
    ("scale", "path"), [("full", "nvidia-h200/quantization.json"), ("smoke", "nvidia-h200-smoke/quantization.json")]
)
def test_scales_have_folders_of_their_own(store: BaselineStore, scale: Any, path: str) -> None:
    written = store.record("quantization", "a", a_measurement(workload=Workload(scale=scale)), "first")

    assert written == store.root / path
    assert files_in(store.root) == [path]


def test_a_measurement_of_the_other_scale_finds_nothing(store: BaselineStore) -> None:
    store.record("quantization", "a", a_measurement(), "first")

    assert store.find(a_measurement(workload=Workload(scale="smoke")), "quantization", "a") is None


def test_an_empty_store_has_nothing(store: BaselineStore) -> None:
    assert store.load("nvidia-h200", "quantization") is None
    assert store.find(a_measurement(), "quantization", "a") is None
    assert not store.root.exists()


def test_a_measurement_that_does_not_know_its_device_finds_nothing(store: BaselineStore) -> None:
    store.record("quantization", "a", a_measurement(), "first")

    assert store.find(a_measurement(environment=None), "quantization", "a") is None


def test_a_change_by_another_process_is_seen(store: BaselineStore) -> None:
    store.record("quantization", "a", a_measurement(), "first")
    store.find(a_measurement(), "quantization", "a")
    faster = a_measurement(processes=(a_process(samples_per_second=4.0),))
    BaselineStore(store.root).record("quantization", "a", faster, "faster")

    found = store.find(a_measurement(), "quantization", "a")

    assert found is not None
    assert found.measurement == faster


def test_recording_again_keeps_the_rows_tolerances_and_the_other_rows(store: BaselineStore) -> None:
    store.record("quantization", "other", a_measurement(), "first")
    path = store.record("quantization", "a", a_measurement(), "first")
    file = decode(path.read_bytes(), path)
    tolerances = {"samples_per_second": Tolerance(0.08)}
    rows = {**file.rows, "a": msgspec.structs.replace(file.rows["a"], tolerances=tolerances)}
    path.write_bytes(encode(msgspec.structs.replace(file, rows=rows)))

    store.record("quantization", "a", a_measurement(processes=(a_process(samples_per_second=4.0),)), "faster")

    after = decode(path.read_bytes(), path)
    assert after.rows["a"].tolerances == tolerances
    assert after.rows["a"].processes[0].metrics == {"samples_per_second": 4.0}
    assert after.rows["other"] == file.rows["other"]


def test_an_out_of_memory_row_is_a_baseline(store: BaselineStore) -> None:
    measurement = a_measurement(processes=(Process(outcome="oom", reason="tried to allocate 2.00 GiB"),))

    store.record("quantization", "a", measurement, "does not fit")

    found = store.find(a_measurement(), "quantization", "a")
    assert found is not None
    assert found.measurement.outcome == "oom"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"processes": (Process(outcome="invalid", reason="throttled"),)}, "'invalid'.*throttled"),
        ({"processes": (Process(outcome="crashed", reason="signal 11"),)}, "'crashed'.*signal 11"),
        ({"processes": (Process(outcome="timeout", reason="600 s"),)}, "'timeout'"),
        ({"processes": (Process(outcome="diverged", reason="loss is nan"),)}, "'diverged'"),
        ({"processes": (Process(outcome="unavailable", reason="no GPTQ"),)}, "'unavailable'"),
        ({"processes": (Process(outcome="ok"),)}, "nothing was measured"),
        ({"processes": (a_process(loss_first=float("nan")),)}, r"processes\.0\.metrics\.loss_first is nan"),
        ({"workload": Workload(injection=Injection("device", 0.1))}, "planted"),
        ({"environment": None}, "environment is unknown"),
    ],
)
def test_what_must_not_become_a_baseline_is_refused(store: BaselineStore, changes: dict[str, Any], reason: str) -> None:
    path = store.record("quantization", "a", a_measurement(), "first")
    before = path.read_bytes()

    with pytest.raises(RefusedUpdate, match=reason):
        store.record("quantization", "a", a_measurement(**changes), "again")

    assert path.read_bytes() == before


def test_a_metric_that_does_not_exist_is_not_stored(store: BaselineStore) -> None:
    with pytest.raises(BaselineError, match="unknown metric 'speed'"):
        store.record("quantization", "a", a_measurement(processes=(a_process(speed=1.0),)), "first")

    assert files_in(store.root) == []


HOSTILE = ["", ".", "..", "../x", "a/b", "/etc/x", "a\\b", "a\0b", ".hidden", "a\nb", "x" * 300, "t\u00e4ble"]


@pytest.mark.parametrize("table", HOSTILE)
def test_a_table_name_never_leaves_its_folder(store: BaselineStore, table: str) -> None:
    with pytest.raises(BaselineError, match="table name"):
        store.record(table, "a", a_measurement(), "first")
    with pytest.raises(BaselineError, match="table name"):
        store.find(a_measurement(), table, "a")

    assert not store.root.exists()


@pytest.mark.parametrize("folder", HOSTILE)
def test_a_folder_name_never_leaves_the_root(store: BaselineStore, folder: str) -> None:
    with pytest.raises(BaselineError, match="folder name"):
        store.load(folder, "quantization")


@pytest.mark.parametrize("device", ["../../x", "a/b", "\0", "", "NVIDIA H200 (MIG 1g.18gb)"])
def test_a_device_with_an_odd_name_has_a_folder_within_the_root(store: BaselineStore, device: str) -> None:
    environment = msgspec.structs.replace(ENVIRONMENT, device=device)

    path = store.record("quantization", "a", a_measurement(environment=environment), "first")

    assert path.parent == store.root / folder_name(environment, "full")
    assert path.resolve().parent.parent == store.root.resolve()


@pytest.mark.parametrize("row", ["", "a\0b", "a\nb", "x" * 201])
def test_a_row_name_that_cannot_be_shown_is_refused(store: BaselineStore, row: str) -> None:
    with pytest.raises(BaselineError, match="row name"):
        store.record("quantization", row, a_measurement(), "first")


def test_a_row_name_is_no_path(store: BaselineStore) -> None:
    store.record("quantization", "../../org/model", a_measurement(), "first")

    assert files_in(store.root.parent) == ["baselines/nvidia-h200/quantization.json"]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data + b"}"])
def test_a_damaged_file_is_never_written_over(store: BaselineStore, damage: Any) -> None:
    path = store.record("quantization", "a", a_measurement(), "first")
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()

    with pytest.raises(BaselineError, match="is not whole JSON"):
        store.record("quantization", "b", a_measurement(), "first")

    assert path.read_bytes() == before


def test_a_file_under_another_tables_name_is_refused(store: BaselineStore) -> None:
    path = store.record("quantization", "a", a_measurement(), "first")
    path.rename(path.with_name("lora_rank.json"))

    with pytest.raises(BaselineError, match=r"lora_rank\.json, field table: is 'quantization'"):
        store.load("nvidia-h200", "lora_rank")


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(
    store: BaselineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.record("quantization", "a", a_measurement(), "first")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BaselineError, match=r"quantization\.json: cannot be written: No space left on device"):
        store.record("quantization", "b", a_measurement(), "first")

    assert path.read_bytes() == before
    assert files_in(store.root) == ["nvidia-h200/quantization.json"]


def test_a_root_that_cannot_be_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "baselines").write_text("a file")
    store = BaselineStore(tmp_path / "baselines")

    with pytest.raises(BaselineError, match="cannot be written"):
        store.record("quantization", "a", a_measurement(), "first")
    with pytest.raises(BaselineError, match="cannot be read: Not a directory"):
        store.find(a_measurement(), "quantization", "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_a_clear_error(store: BaselineStore) -> None:
    path = store.record("quantization", "a", a_measurement(), "first")
    path.parent.chmod(0o500)

    with pytest.raises(BaselineError, match="cannot be written: Permission denied"):
        store.record("quantization", "b", a_measurement(), "first")


def test_a_lock_that_is_never_given_back_is_a_clear_error(
    store: BaselineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.root.mkdir()
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.05)

    with filelock.FileLock(store.root / ".lock"), pytest.raises(BaselineError, match="another process has kept"):
        store.record("quantization", "a", a_measurement(), "first")


def test_what_a_killed_writer_left_does_not_disturb_the_next(store: BaselineStore) -> None:
    path = store.record("quantization", "a", a_measurement(), "first")
    path.with_name(".quantization.json.new").write_bytes(b"{half")

    store.record("quantization", "b", a_measurement(), "first")

    assert files_in(store.root) == ["nvidia-h200/quantization.json"]
    assert set(decode(path.read_bytes(), path).rows) == {"a", "b"}


def test_a_new_file_has_the_permissions_that_the_umask_gives(store: BaselineStore) -> None:
    path = store.record("quantization", "a", a_measurement(), "first")
    plain = store.root / "plain"
    plain.touch()

    assert path.stat().st_mode == plain.stat().st_mode


WRITER = """
import sys
from pathlib import Path
import msgspec
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.schema.measurement import Measurement

root, prefix, measurement = sys.argv[1:]
store = BaselineStore(Path(root))
measurement = msgspec.json.decode(measurement, type=Measurement)
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    store.record("quantization", f"{prefix}-{number}", measurement, "first")
"""


def test_rows_of_two_processes_that_write_at_once_all_survive(store: BaselineStore) -> None:
    measurement = msgspec.json.encode(a_measurement()).decode()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.root), prefix, measurement],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for prefix in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)

    file = store.load("nvidia-h200", "quantization")
    assert [writer.returncode for writer in writers] == [0, 0]
    assert file is not None
    assert set(file.rows) == {f"{prefix}-{number}" for prefix in ("one", "two") for number in range(20)}


def test_a_reader_never_sees_half_a_file(store: BaselineStore) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.root), "row", msgspec.json.encode(a_measurement()).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert writer.stdin is not None
    writer.stdin.write(b"go\n")
    writer.stdin.close()
    seen = set()
    while writer.poll() is None:
        file = store.load("nvidia-h200", "quantization") or BaselineFile(table="quantization")
        seen.add(len(file.rows))

    assert writer.returncode == 0
    assert seen <= set(range(21))
    assert store.find(a_measurement(), "quantization", "row-19") is not None


def test_everything_stored_is_there_for_whoever_plans(store: BaselineStore) -> None:
    store.record("speed", "a", a_measurement(), because="a test")
    store.record("other", "b", a_measurement(), because="a test")
    (store.root / folder_name(ENVIRONMENT, "full") / "broken.json").write_text("{")

    assert list(store.measurements()) == [a_measurement(), a_measurement()]
