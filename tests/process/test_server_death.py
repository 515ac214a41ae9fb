"""A server that dies is replaced, and in the end done without."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

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


def test_after_two_deaths_without_a_good_case_nothing_is_preloaded(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(preload=["imported_once"])
    bench.run("kill_server")
    bench.run("kill_server")

    process = bench.run("preloaded").processes[0].ran

    assert process["imported_in"] == process["pid"]
    assert bench.announced[0].startswith("the server was killed by SIGKILL")
    assert "from now on every case imports its libraries itself" in bench.announced[1]


def test_a_good_case_forgives_a_death(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(preload=["imported_once"])
    bench.run("kill_server")
    bench.run("clean")
    bench.run("kill_server")

    assert bench.run("preloaded").processes[0].ran["imported_in"] == str(bench.servers()[0])


def test_a_server_that_does_not_start_costs_no_case(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(preload=["deadly"])

    assert bench.run("clean").outcome == "ok"
    assert len(bench.announced) == 2
