"""Both environments at once on the same devices: a warm server each, and processes of both in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Self

from pytest_llmbench.executors import SetupError
from pytest_llmbench.executors.lease import lease
from pytest_llmbench.executors.local import PRELOAD, LocalExecutor
from pytest_llmbench.executors.machine import usable_gpus
from pytest_llmbench.executors.neighbours import among_others
from pytest_llmbench.host.nvml import Gpu
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.environment import CiRun, Repository
from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Phase, Request
from pytest_llmbench.schema.workload import Device, Workload
from pytest_llmbench.stacks.stack import Stack
from pytest_llmbench.store.pair import SIDES, Side
from pytest_llmbench.trials.trial import until_valid

__all__ = ["Sides", "visible_devices"]

OnPhase = Callable[[Side, Phase], None]


class Sides:
    """
    Measures one case in two environments, one process after the other.

    Args:
        a, b: the environments.
        gpus: what may be measured on; empty for the CPU, and for tensors without content.
        path: folders with the user's own modules.
        timeout_seconds: deadline of one process.
        announce: called with a sentence when something is not as it was asked for.
        custom: only steps of the user's own are measured, which take less of the stack.
        shared_gpu: other programs may use the GPUs.
        repository: the repository under test.
        ci: the run of a CI service that this is.

    Raises:
        SetupError: nothing can be measured on this operating system.
    """

    def __init__(  # noqa: PLR0913 - what a comparison was asked for
        self,
        a: Stack,
        b: Stack,
        gpus: Sequence[Gpu],
        *,
        path: Iterable[Path] = (),
        timeout_seconds: float,
        announce: Callable[[str], None],
        custom: bool = False,
        shared_gpu: bool = False,
        repository: Repository | None = None,
        ci: CiRun | None = None,
    ) -> None:
        self._gpus = tuple(gpus)
        self._path = tuple(path)
        self._timeout_seconds = timeout_seconds
        self._announce = announce
        self._shared_gpu = shared_gpu
        self._repository, self._ci = repository, ci
        self._preload = PRELOAD[:2] if custom else PRELOAD
        self._stacks: dict[Side, Stack] = {"a": a, "b": b}
        self._executors = {side: self._executor(side) for side in SIDES}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for executor in self._executors.values():
            executor.close()

    def change_b(self, stack: Stack) -> None:
        """Measure in another environment from now on, beside the same A."""
        if stack == self._stacks["b"]:
            return
        self._executors["b"].close()
        self._stacks["b"] = stack
        self._executors["b"] = self._executor("b")

    def pair(
        self, case: Case, workload: Workload, first: Side, on_phase: OnPhase, *, with_profile: bool
    ) -> tuple[Measurement, Measurement]:
        """
        One fresh process of each environment, with nobody else on the GPUs in between; A's measurement, then B's.

        A process that was disturbed is measured again.

        Args:
            first: the side that measures first.
            with_profile: count what a step does, by name and place.
            on_phase: called as the process of a side enters a phase.

        Raises:
            SetupError: GPUs cannot be leased.
        """
        chosen = [gpu.uuid for gpu in self._gpus[: case.num_gpus]]
        devices = ",".join(chosen) if chosen else None
        request = Request(
            case=case,
            workload=workload,
            visible_devices=devices,
            with_profile=with_profile,
            repository=self._repository,
            ci=self._ci,
        )
        measured: dict[Side, Measurement] = {}
        with lease(chosen, self._announce) if chosen else nullcontext():
            for side in SIDES if first == "a" else SIDES[::-1]:
                measured[side] = self._run(side, request, on_phase)
        return measured["a"], measured["b"]

    def _executor(self, side: Side) -> LocalExecutor:
        stack = self._stacks[side]
        return LocalExecutor(
            timeout_seconds=self._timeout_seconds,
            announce=partial(self._announce_of, side),
            python=stack.python,
            preload=self._preload,
            environ=stack.environ(self._path),
        )

    def _run(self, side: Side, request: Request, on_phase: OnPhase) -> Measurement:
        once = partial(among_others, self._executors[side].run, request, partial(on_phase, side))
        return until_valid(request, once, partial(self._announce_of, side), shared_gpu=self._shared_gpu)

    def _announce_of(self, side: Side, sentence: str) -> None:
        self._announce(f"{side.upper()}: {sentence}")


def visible_devices(device: Device) -> tuple[Gpu, ...]:
    """
    What a workload for *device* is measured on; empty for the CPU, and for tensors without content.

    Raises:
        SetupError: there is no such device.
    """
    if device != "cuda":
        return ()
    gpus, why = usable_gpus()
    if why:
        raise SetupError(f"no CUDA device; --scale smoke runs miniatures on the CPU ({why})")
    return gpus
