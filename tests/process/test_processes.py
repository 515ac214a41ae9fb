"""Every case has a fresh process, forked from a server that imports once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmbench.executors import SetupError, local, server
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Workload

if TYPE_CHECKING:
    from tests.process.conftest import Bench


def ran(bench: Bench, step: str, visible_devices: str | None = None) -> dict[str, str]:
    return bench.run(step, visible_devices).processes[0].ran


def test_two_cases_have_two_processes_of_one_server(bench: Bench) -> None:
    first, second = ran(bench, "clean"), ran(bench, "clean")

    assert first["pid"] != second["pid"]
    assert len(bench.servers()) == 1


def test_a_process_leads_a_session_of_its_own(bench: Bench) -> None:
    process = ran(bench, "clean")

    assert process["pid"] == process["session"]


def test_a_process_sees_the_devices_of_its_request_only(bench: Bench) -> None:
    assert ran(bench, "clean", "GPU-1,GPU-2")["devices"] == "GPU-1,GPU-2"
    assert ran(bench, "clean")["devices"] == bench.environ.get("CUDA_VISIBLE_DEVICES", "unset")


def test_a_case_that_is_over_leaves_nothing_open_in_the_server(bench: Bench) -> None:
    bench.run("clean")
    (server,) = bench.servers()
    files = Path(f"/proc/{server}/fd")
    before = len(list(files.iterdir()))
    bench.run("clean")
    bench.run("killed")

    assert len(list(files.iterdir())) == before


def test_phases_arrive_in_order(bench: Bench) -> None:
    bench.run("clean")

    assert bench.phases == ["build", "rounds"]


def test_a_preloaded_module_is_imported_once_in_the_server(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(preload=["imported_once"])

    first, second = ran(bench, "preloaded"), ran(bench, "preloaded")

    assert first["pid"] != second["pid"]
    assert [first["imported_in"], second["imported_in"]] == [str(pid) for pid in bench.servers() * 2]
    assert bench.phases == ["preload"]


@pytest.mark.parametrize(
    ("step", "preload", "phase"), [("clean", ["imported_once"], "preload"), ("hang", [], "warm-up")]
)
def test_a_phase_is_told_again_while_it_goes_on(
    new_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, step: str, preload: list[str], phase: str
) -> None:
    for module in (local, server):
        monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    request = Request(case=Case.custom(f"steps:{step}", name=step), workload=Workload(device="cpu"))
    heard: list[str] = []

    new_bench(timeout_seconds=1.0, preload=preload).executor.run(request, lambda told: heard.append(told.name))

    assert heard.count(phase) > 1


def test_without_preloading_each_process_imports_by_itself(bench: Bench) -> None:
    process = ran(bench, "preloaded")

    assert process["imported_in"] == process["pid"]


def test_a_module_that_cannot_be_preloaded_is_left_to_the_case(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(preload=["no_such_module", "imported_once"])

    process = ran(bench, "preloaded")

    assert process["imported_in"] == str(bench.servers()[0])
    assert bench.announced == []


def test_a_module_that_poisons_the_server_is_left_out_and_named(new_bench: Callable[..., Bench]) -> None:
    bench = new_bench(preload=["imported_once", "poisonous"])

    process = ran(bench, "preloaded")

    assert process["imported_in"] == str(bench.servers()[0])
    assert bench.announced == [
        "importing poisonous changed PYTORCH_ALLOC_CONF, which forked processes cannot undo: "
        "the server keeps imported_once, cases import the rest themselves"
    ]


def test_another_protocol_version_is_said_in_words(bench: Bench) -> None:
    request = Request(case=Case.custom("steps:clean", name="clean"), workload=Workload(device="cpu"), protocol=999)

    measurement = bench.executor.run(request, lambda _: None)

    assert measurement.outcome == "crashed"
    assert "the pytest side speaks protocol 999" in (measurement.reason or "")


def test_an_interpreter_that_is_not_there_is_a_crash_with_its_name() -> None:
    announced: list[str] = []
    request = Request(case=Case(model="qwen-7b-chat"), workload=Workload(device="cpu"))
    with LocalExecutor(timeout_seconds=5, announce=announced.append, python=Path("/no/such/python")) as executor:
        measurement = executor.run(request, lambda _: None)

    assert measurement.outcome == "crashed"
    assert "/no/such/python cannot be run: No such file or directory" in (measurement.reason or "")


def test_an_exception_of_the_callback_passes_on_and_ends_the_case(bench: Bench) -> None:
    request = Request(case=Case.custom("steps:hang", name="hang"), workload=Workload(device="cpu"))

    def refuse(phase: Phase) -> None:
        raise LookupError(phase.name)

    with pytest.raises(LookupError, match="warm-up"):
        bench.executor.run(request, refuse)
    assert bench.survivors() == []
    assert bench.run("clean").outcome == "ok"


def test_other_systems_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")

    with pytest.raises(SetupError, match=r"cannot be measured on Darwin: .* needs Linux"):
        LocalExecutor(timeout_seconds=5, announce=print)
