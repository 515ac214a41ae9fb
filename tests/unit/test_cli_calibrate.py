"""`llmbench calibrate`: what runs of one environment say of each row's noise, kept with its baseline."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import measurements
import surroundings
from pytest_llmbench.cli import app
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.workload import Injection, Workload
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.results import Result

BUSY = "device_busy_seconds_per_sample"
WALL = "samples_per_second"


def measured(
    day: int,
    *busy: float,
    packages: dict[str, str] | None = None,
    injection: Injection | None = None,
    loss: float = 12.5,
) -> Measurement:
    environment = surroundings.environment(
        device="Test GPU", device_memory_bytes=1, driver="1", cuda="13.0", packages=packages or {"peft": "0.21.2"}
    )
    return measurements.measured(
        *({WALL: 0.95 / seconds, BUSY: seconds, "host_bound": 0.95, "loss_first": loss} for seconds in busy),
        workload=Workload(injection=injection),
        environment=environment,
        measured_at=f"2026-11-{day:02}T03:00:00+00:00",
    )


class Folder:
    """A folder with one baseline and result files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = BaselineStore(path / "baselines")
        self.store.record("speed", "a", measured(1, 0.25), "the first")

    def write(self, name: str, measurement: Measurement) -> Path:
        result = Result(
            nodeid="t", table="speed", row="a", measurement=measurement, verdict=RowVerdict(status="unchanged", reason=""),
            decision="pass", message="", seconds=1.0,
        )  # fmt: skip
        path = self.path / name
        path.write_bytes(msgspec.json.encode(result) + b"\n")
        return path

    def run(self, *arguments: str | Path) -> tuple[int, str]:
        baselines = ["--baselines", str(self.path / "baselines")]
        result = CliRunner().invoke(app, ["calibrate", *map(str, arguments), *baselines], env={"COLUMNS": "200"})
        return result.exit_code, result.output

    def noise(self) -> dict[str, float]:
        """Between sessions, by metric."""
        file = self.store.load("test-gpu", "speed")
        assert file is not None
        return {name: noise.session_sd for name, noise in file.rows["a"].noise.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_row_gets_the_noise_of_its_sessions(folder: Folder) -> None:
    code, told = folder.run(folder.write("b", measured(2, 0.251)), folder.write("c", measured(3, 0.249)))

    assert code == 0
    assert "llmbench: 1 row calibrated" in told
    assert set(folder.noise()) == {BUSY, WALL}


def test_sessions_that_lie_far_apart_make_a_row_noisy(folder: Folder) -> None:
    folder.run(folder.write("b", measured(2, 0.2502)), folder.write("c", measured(3, 0.2498)))
    quiet = folder.noise()[BUSY]
    _, told = folder.run(folder.write("b", measured(2, 0.29)), folder.write("c", measured(3, 0.21)))

    assert folder.noise()[BUSY] > 10 * quiet
    assert "advisory" in told


def test_a_file_that_is_given_twice_counts_once(folder: Folder) -> None:
    path = folder.write("b", measured(2, 0.252))
    folder.run(path)
    once = folder.noise()
    folder.run(path, path)

    assert folder.noise() == once


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (measured(2, 0.3, packages={"peft": "0.22.0"}), "another environment: peft 0.21.2 -> 0.22.0"),
        (measured(2, 0.3, injection=Injection("host", 0.1)), "something was planted in it"),
        (measured(2, 0.3, loss=13.0), "it did other work: loss_first moved"),
        (msgspec.structs.replace(measured(2, 0.3), workload=Workload(samples=8)), "not comparable: workload.samples"),
    ],
)
def test_what_is_no_repetition_is_passed_over_and_said(folder: Folder, other: Measurement, why: str) -> None:
    folder.run(folder.write("b", measured(2, 0.2501)))
    before = folder.noise()
    code, told = folder.run(folder.write("b", measured(2, 0.2501)), folder.write("c", other))

    assert code == 0
    assert f"llmbench: speed[a]: a result is passed over: {why}" in told
    assert folder.noise() == before


def test_a_dry_run_writes_nothing(folder: Folder) -> None:
    code, told = folder.run(folder.write("b", measured(2, 0.251)), "--dry-run")

    assert (code, folder.noise()) == (0, {})
    assert "nothing written" in told


def test_the_noise_stays_when_the_row_is_recorded_again(folder: Folder) -> None:
    folder.run(folder.write("b", measured(2, 0.251)))
    before = folder.noise()
    folder.store.record("speed", "a", measured(4, 0.26), "again")

    assert folder.noise() == before


def test_a_row_without_a_baseline_is_said(folder: Folder) -> None:
    other = msgspec.structs.replace(measured(2, 0.25), environment=None)

    code, told = folder.run(folder.write("b", other))

    assert code == 2
    assert "no result has a baseline" in told


def test_a_link_in_the_place_of_the_baselines_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, here = Folder(tmp_path / "outside"), tmp_path / "here"
    here.mkdir()
    (here / "baselines").symlink_to(outside.path / "baselines")
    monkeypatch.chdir(here)
    first = outside.write("1.jsonl", measured(1, 0.25, 0.2501, 0.2499))
    second = outside.write("2.jsonl", measured(2, 0.25, 0.2501, 0.2499))

    ran = CliRunner().invoke(app, ["calibrate", str(first), str(second)])

    assert ran.exit_code == 2
    assert f"baselines is a link to {outside.path / 'baselines'}, out of this folder" in ran.stderr
    assert outside.noise() == {}
