"""
A plugin whose executor measures nothing: it answers at once with what `answers.json` says of the case.

`answers.json` lies in the folder where pytest is started and maps the case's model to the fields of
`Answer`, or to a list of them, one for each time it is asked for, of which the last stays; a model
that is not in it is answered by their defaults. The models that were asked for
are appended to `asked.txt`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import surroundings
from pytest_llmbench.executors import NotMeasurable, SetupError
from pytest_llmbench.schema.environment import Environment
from pytest_llmbench.schema.measurement import AllocationShare, Evidence, Measurement, Outcome, Process, Round
from pytest_llmbench.schema.metrics import Value
from pytest_llmbench.schema.protocol import Phase, Request

METRICS: dict[str, Value] = {
    "samples_per_second": 2.0,
    "device_busy_seconds_per_sample": 0.25,
    "kernels_per_sample": 100.0,
    "host_bound": 0.95,
    "peak_reserved_bytes": (4 * 2**30,),
    "loss_first": 2.5,
}


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """What becomes of one case."""

    outcome: Outcome = "ok"
    metrics: dict[str, Value] = {}
    """Those that are not as in `METRICS`."""
    packages: dict[str, str] = msgspec.field(default_factory=lambda: {"torch": "2.11.0", "peft": "0.21.0"})
    device: str | None = "Test GPU"
    """None for a measurement that does not know its environment."""
    evidence: Evidence = Evidence()
    rounds: tuple[Round, ...] = ()
    not_measurable: str | None = None
    setup_error: str | None = None
    prints: str = ""
    seconds: float = 0.001


class CannedExecutor:
    """Answers from the folder that it is told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.closed = False

    def __str__(self) -> str:
        return "canned executor"

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        assert not self.closed
        model = request.case.model
        with (self._folder / "asked.txt").open("a") as stream:
            stream.write(f"{model}\n")
        on_phase(Phase("rounds", 2.0))
        answers = self._folder / "answers.json"
        known = msgspec.json.decode(answers.read_bytes(), type=dict[str, Any]) if answers.exists() else {}
        asked = (self._folder / "asked.txt").read_text().splitlines().count(model)
        chosen = known.get(model, {})
        chosen = chosen[min(asked, len(chosen)) - 1] if isinstance(chosen, list) else chosen
        answer = msgspec.convert(chosen, Answer)
        time.sleep(answer.seconds)
        if answer.not_measurable:
            raise NotMeasurable(answer.not_measurable)
        if answer.setup_error:
            raise SetupError(answer.setup_error)
        return Measurement(
            case=request.case,
            workload=request.workload,
            environment=None if answer.device is None else _environment(answer.device, answer.packages),
            processes=(_process(answer, request),),
            measured_at="2026-11-24T10:00:00+00:00",
        )

    def close(self) -> None:
        self.closed = True


def _process(answer: Answer, request: Request) -> Process:
    if answer.outcome == "ok":
        return Process(
            outcome="ok",
            metrics={**METRICS, **answer.metrics},
            evidence=answer.evidence,
            rounds=answer.rounds,
            peak_allocations=(AllocationShare("aten::linear", 1, 2**30),) if request.with_profile else (),
        )
    return Process(outcome=answer.outcome, reason=f"a canned {answer.outcome}", metrics=answer.metrics)


def _environment(device: str, packages: dict[str, str]) -> Environment:
    return surroundings.environment(
        device=device,
        device_memory_bytes=80 * 2**30,
        driver="580.1",
        cuda="13.0",
        python="3.11.7",
        num_cpus=2,
        packages=packages,
    )


def pytest_llmbench_executor(config: pytest.Config) -> CannedExecutor:
    return CannedExecutor(config.invocation_params.dir)
