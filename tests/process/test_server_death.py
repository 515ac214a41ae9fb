"""A server that dies is replaced, and one that does not start is done without."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.process.conftest import Bench


def kill_server(bench: Bench) -> None:
    (server,) = bench.servers()
    os.kill(server, signal.SIGKILL)


def test_a_server_killed_between_cases_is_replaced(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench()
    bench.run("clean")
    kill_server(bench)

    assert bench.run("clean").outcome == "ok"
    (announced,) = bench.announced
    assert "the server was killed by SIGKILL" in announced


def test_a_server_killed_during_a_case_crashes_that_case_only(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench()

    measurement = bench.run("kill_server")

    assert measurement.outcome == "crashed"
    assert (measurement.reason or "").startswith("ended with its server: the server was killed by SIGKILL")
    assert bench.running() == {}
    assert bench.run("clean").outcome == "ok"


def test_a_daemon_without_its_environment_is_ended_though_its_server_is_killed(
    new_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench, told = new_bench(), tmp_path / "daemon"
    bench.environ["LLMBENCH_TEST_DAEMON"] = str(told)

    assert bench.run("kill_server_of_a_daemon").outcome == "crashed"

    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)
    assert bench.run("clean").outcome == "ok"


def test_cases_that_kill_their_servers_do_not_end_warm_starts(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(preload=["imported_once"])
    for _ in range(3):
        bench.run("kill_server")

    assert bench.run("preloaded").processes[0].ran["imported_in"] == str(bench.servers()[0])
    assert not [one for one in bench.announced if "from now on" in one]


def test_servers_killed_between_cases_do_not_end_warm_starts(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(preload=["imported_once"])
    for _ in range(3):
        bench.run("clean")
        kill_server(bench)

    assert bench.run("preloaded").processes[0].ran["imported_in"] == str(bench.servers()[0])


def test_a_server_that_does_not_start_costs_no_case(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(preload=["deadly"])

    assert bench.run("clean").outcome == "ok"
    assert "from now on every case imports its libraries itself" in bench.announced[1]
    assert len(bench.announced) == 2
