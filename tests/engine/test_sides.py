"""Both sides of a comparison in real processes: what was disturbed is measured again, and what is looked at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import forked
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.stacks.stack import Source, open_stack
from pytest_llmbench.trials.sides import Sides

pytestmark = pytest.mark.xdist_group("sides")

STEPS = """
from pathlib import Path

import msgspec
import torch

TRIES = Path(__file__).with_name("tries")

def plain(device):
    weight = torch.ones(8, 8, requires_grad=True)
    return lambda: (weight @ weight).sum().backward() or 1

def braked(device, enough=1):
    '''Says of its first processes that the hardware slowed the GPU down.'''
    from pytest_llmbench.worker.devices import Devices

    TRIES.open("a").write("x")
    if len(TRIES.read_text()) <= enough:
        really = Devices.evidence

        def evidence(devices):
            found, missing = really(devices)
            return msgspec.structs.replace(found, hardware_slowdown_seconds=(0.5,)), missing

        Devices.evidence = evidence
    return plain(device)

def always_braked(device):
    return braked(device, 1000)
"""


@pytest.fixture(scope="module", name="spoken")
def _spoken() -> list[str]:
    """What is said in all tests."""
    return []


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    (folder / "steps_of_sides.py").write_text(STEPS)
    return folder


@pytest.fixture(scope="module", name="sides")
def _sides(folder: Path, spoken: list[str]) -> Iterator[Sides]:
    """One for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBENCH_CACHE", str(folder / "cache"))
        forked.fork_servers(patch)
        stack = open_stack("current", Source(), lambda _: None)
        with Sides(stack, stack, (), path=[folder], timeout_seconds=60, announce=spoken.append, custom=True) as sides:
            yield sides


@pytest.fixture(name="said")
def _said(spoken: list[str], folder: Path) -> list[str]:
    """What is said in this test, and no try so far."""
    spoken.clear()
    (folder / "tries").unlink(missing_ok=True)
    return spoken


WORKLOAD = Workload(scale="smoke", device="cpu", samples=3)


def case(step: str) -> Case:
    return Case.custom(f"steps_of_sides:{step}", name=step)


def test_a_disturbed_process_of_a_side_is_measured_again(sides: Sides, said: list[str], folder: Path) -> None:
    a, b = sides.pair(case("braked"), WORKLOAD, "a", lambda *_: None, with_profile=False)

    assert (a.outcome, b.outcome) == ("ok", "ok")
    assert len((folder / "tries").read_text()) == 3
    assert said == [
        "A: braked: the hardware slowed the GPU down for 0.5 s of the measured rounds; try 1 of 3 does not count"
    ]


def test_a_side_that_is_always_disturbed_is_invalid(sides: Sides, said: list[str]) -> None:
    a, b = sides.pair(case("always_braked"), WORKLOAD, "b", lambda *_: None, with_profile=False)

    assert (a.outcome, b.outcome) == ("invalid", "invalid")
    assert [sentence[0] for sentence in said] == ["B"] * 3 + ["A"] * 3


@pytest.mark.parametrize("with_profile", [True, False])
def test_a_pair_looks_at_what_its_peak_is_made_up_of_if_it_is_asked_to(sides: Sides, *, with_profile: bool) -> None:
    a, b = sides.pair(case("plain"), WORKLOAD, "a", lambda *_: None, with_profile=with_profile)

    assert [bool(side.peak_allocations) for side in (a, b)] == [with_profile] * 2


def test_a_pair_knows_how_many_neighbours_it_had(sides: Sides) -> None:
    a, b = sides.pair(case("plain"), WORKLOAD, "a", lambda *_: None, with_profile=False)

    assert None not in [process.neighbours for side in (a, b) for process in side.processes]
