"""Cases measured several at once, in real processes that sleep."""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_llmbench.executors import SetupError
from pytest_llmbench.executors.machine import Machine
from pytest_llmbench.executors.pool import Announcements, Pool
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload

WORKLOAD = Workload(scale="smoke", device="cpu", samples=4)


def row(name: str, seconds: float, width: int = 1) -> Request:
    case = Case.custom("m:f", name=f"{name} {seconds}", num_gpus=width, parallelism="ddp")
    return Request(case=case, workload=WORKLOAD)


def length(request: Request) -> float:
    return float(request.case.model.split()[1])


class Noting:
    """
    A machine that notes which rows it began with.

    Attributes:
        began: their names, in order.
    """

    def __init__(self, machine: Machine) -> None:
        self.began: list[str] = []
        self._machine = machine

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        self.began.append(request.case.model.split()[0])
        return self._machine.run(request, on_phase)

    def close(self) -> None:
        self._machine.close()


MakePool = Callable[..., Pool]


def began(pool: Pool) -> list[str]:
    assert isinstance(pool.executor, Noting)
    return pool.executor.began


@pytest.fixture
def make_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePool]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.syspath_prepend(Path(__file__).parent)  # a machine hands its path to its processes
    pools: list[Pool] = []

    def make(slots: int, announce: Callable[[str], None] = pytest.fail, timeout_seconds: float = 60) -> Pool:
        announcements = Announcements(announce)
        machine = Machine(
            "cpu",
            timeout_seconds=timeout_seconds,
            announce=announcements,
            measure="pool_steps:measure",
            preload=(),
        )
        pools.append(
            Pool(Noting(machine), slots=slots, width=machine.width, seconds=length, announcements=announcements),
        )
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def names(measurements: Sequence[Measurement]) -> list[str]:
    return [measurement.case.model.split()[0] for measurement in measurements]


def run_all(pool: Pool, requests: Sequence[Request]) -> list[Measurement]:
    pool.schedule(requests)
    return [pool.run(request, lambda _: None) for request in requests]


def test_96_rows_on_8_gpus_come_back_in_the_order_of_their_tests(make_pool: MakePool) -> None:
    generator = random.Random(0)
    rows = [row(f"row-{number}", round(generator.uniform(0.01, 0.2), 2)) for number in range(96)]

    measurements = run_all(make_pool(8), rows)

    assert [one.outcome for one in measurements] == ["ok"] * 96
    assert [one.case for one in measurements] == [one.case for one in rows]


def test_rows_of_several_slots_start_first_and_narrow_ones_fill_the_rest(make_pool: MakePool) -> None:
    rows = [row("a", 0.6), row("b", 0.6), row("wide", 1.0, width=3), row("c", 0.5)]
    pool = make_pool(4)

    measurements = run_all(pool, rows)

    assert set(began(pool)[:2]) == {"wide", "a"}
    assert measurements[2].processes[0].neighbours == 1


def test_one_slot_runs_the_longest_first(make_pool: MakePool) -> None:
    pool = make_pool(1)
    rows = [row("short", 0.05), row("long", 0.2), row("middle", 0.1)]
    started = time.monotonic()
    pool.schedule(rows)

    pool.run(rows[0], lambda _: None)

    assert began(pool) == ["long", "middle", "short"]
    # Its own time: the others slept before it began.
    assert time.monotonic() - started - pool.last_seconds >= 0.3
    assert names([pool.run(one, lambda _: None) for one in rows[1:]]) == ["long", "middle"]


def test_a_request_that_was_not_told_of_is_measured_next(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.schedule([row(f"row-{number}", 0.5) for number in range(5)])

    pool.run(row("asked", 0.1), lambda _: None)

    assert began(pool)[:2] == ["row-0", "asked"]


def test_a_request_wider_than_the_pool_takes_all_of_it(make_pool: MakePool) -> None:
    assert make_pool(2).run(row("wide", 0.0, width=4), lambda _: None).outcome == "ok"


def test_two_tests_of_one_case_measure_it_twice(make_pool: MakePool) -> None:
    pool = make_pool(2)
    twice = [row("same", 0.2)] * 2

    one, other = run_all(pool, twice)

    assert one is not other


def test_what_is_ahead_of_its_test_is_told_when_all_of_it_is_there(make_pool: MakePool) -> None:
    pool = make_pool(1)
    ahead: list[list[str]] = []

    def look() -> None:
        ahead.append(names([one.measurement for one in pool.ahead([row("same", 0.1)] * 2)]))

    pool.schedule([row("same", 0.1), row("same", 0.1), row("last", 0.0)], look)
    pool.run(row("last", 0.0), lambda _: None)  # the shortest, which is measured last

    assert ahead == [[], ["same", "same"]]
    assert pool.ahead([row("same", 0.1)] * 3) == ()
    pool.run(row("same", 0.1), lambda _: None)
    assert pool.ahead([row("same", 0.1)] * 2) == ()


def test_phases_reach_the_test_that_waits_in_its_own_thread(make_pool: MakePool) -> None:
    heard: list[tuple[str, int]] = []
    pool = make_pool(1)
    pool.schedule([row("first", 0.3), row("second", 0.1)])

    pool.run(row("second", 0.1), lambda phase: heard.append((phase.name, threading.get_ident())))

    assert [name for name, _ in heard] == ["queued", "rounds"]
    assert {thread for _, thread in heard} == {threading.get_ident()}


def test_what_cannot_be_set_up_fails_every_test_and_makes_none_wait() -> None:
    class Unusable:
        def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
            time.sleep(0.05)
            raise SetupError("torch not installed")

        def close(self) -> None:
            pass

    pool = Pool(Unusable(), slots=1, width=lambda _: 1, seconds=length, announcements=Announcements(print))
    rows = [row("a", 1), row("b", 1), row("c", 1)]
    pool.schedule(rows)

    for request in rows:
        with pytest.raises(SetupError, match="torch not installed"):
            pool.run(request, lambda _: None)


def test_closing_ends_what_runs_and_starts_nothing_more(make_pool: MakePool) -> None:
    before = children()
    pool = make_pool(2)
    pool.schedule([row(f"row-{number}", 3600) for number in range(4)])  # nobody waits for these
    deadline = time.monotonic() + 20
    while len(children() - before) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)

    pool.close()

    assert children() - before == set()


def test_ctrl_c_while_a_test_waits_ends_at_once(make_pool: MakePool) -> None:
    before = children()
    pool = make_pool(2)

    def interrupt(phase: Phase) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run(row("a", 3600), interrupt)  # nobody waits for this

    pool.close()
    assert children() - before == set()


def test_what_a_thread_announces_is_told_by_the_one_that_waits() -> None:
    told: list[int] = []
    announcements = Announcements(lambda _: told.append(threading.get_ident()))

    thread = threading.Thread(target=announcements, args=("a server died",))
    thread.start()
    thread.join()
    assert told == []
    announcements.tell()

    assert told == [threading.get_ident()]


def test_rows_beside_others_are_marked_with_how_many(make_pool: MakePool) -> None:
    pool = make_pool(3)

    beside = run_all(pool, [row("a", 0.8), row("b", 0.8), row("c", 0.8)])
    alone = pool.run(row("d", 0.1), lambda _: None)

    assert [one.processes[0].neighbours for one in beside] == [2, 2, 2]
    assert alone.processes[0].neighbours == 0


def children() -> set[int]:
    """Processes below this one that run: servers of these and of other tests."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.add(int(folder.name))
    return found
