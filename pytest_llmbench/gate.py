"""
One run's measuring and judging: a case in, a decided result out.

Free of pytest: what a decision does to a test is the plugin's business.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from pytest_llmbench.baselines.store import BaselineStore
from pytest_llmbench.baselines.update import RefusedUpdate, UpdateMode, should_record
from pytest_llmbench.cases import Case
from pytest_llmbench.executors import Executor
from pytest_llmbench.executors.lease import lease
from pytest_llmbench.executors.local import LocalExecutor
from pytest_llmbench.judge.compare import judge
from pytest_llmbench.judge.sentence import failure_sentence
from pytest_llmbench.judge.verdict import RowVerdict
from pytest_llmbench.measurement import Measurement
from pytest_llmbench.metrics import Tolerance
from pytest_llmbench.options import Settings
from pytest_llmbench.probes.gpus import visible_gpus
from pytest_llmbench.probes.nvml import Gpu, NvmlUnavailable, open_nvml
from pytest_llmbench.protocol import Phase, Request
from pytest_llmbench.results import Decision, Result
from pytest_llmbench.workload import Workload

__all__ = ["Gate", "GateError", "NotMeasurable"]

STACK = ("torch", "transformers", "peft", "accelerate")


class GateError(ValueError):
    """The run cannot go on as it was asked for: a usage error."""


class NotMeasurable(Exception):
    """This machine cannot measure the case; the message says why and what would."""


class Gate:
    """
    Measures cases on this machine and judges them against the baselines.

    Args:
        settings: the run's options.
        tolerances: those of the command line and the ini file, by metric.
        workload: how every case is measured.
        resumed: results of an earlier run that need no measuring, by test.
        announce: called with a sentence when something is not as it was asked for.

    Raises:
        GateError: the GPU was asked for and there is none, or the training libraries are not installed.
    """

    def __init__(
        self,
        settings: Settings,
        workload: Workload,
        tolerances: Mapping[str, Tolerance],
        resumed: Sequence[Result],
        announce: Callable[[str], None],
    ) -> None:
        self.workload = workload
        self.store = BaselineStore(settings.baselines)
        self._settings = settings
        self._tolerances = tolerances
        self._announce = announce
        self._resumed = {result.nodeid: result for result in resumed}
        self._executor: Executor | None = None
        self.gpus, self._no_gpu = _find_gpus() if workload.device == "cuda" else ((), "")
        if not self.gpus and settings.device == "cuda":
            raise GateError(f"--llmbench-device=cuda: no CUDA device: {self._no_gpu}")

    def measure(self, nodeid: str, case: Case, on_phase: Callable[[Phase], None]) -> tuple[Measurement, float]:
        """
        The case's measurement, and the seconds it took; that of the resumed run if it has one.

        Raises:
            NotMeasurable: there is no GPU, or there are not enough.
            GateError: the training libraries are not installed.
        """
        resumed = self._resumed.get(nodeid)
        if resumed is not None and _reusable(resumed, case, self.workload):
            return resumed.measurement, 0.0
        if self.workload.device == "cpu":
            return self._run(Request(case=case, workload=self.workload), on_phase)
        if not self.gpus:
            raise NotMeasurable(f"no CUDA device; --llmbench-scale smoke runs miniatures on the CPU ({self._no_gpu})")
        if len(self.gpus) < case.num_gpus:
            raise NotMeasurable(f"needs {case.num_gpus} GPUs, {len(self.gpus)} visible")
        chosen = [gpu.uuid for gpu in self.gpus[: case.num_gpus]]
        with lease(chosen, self._announce):
            request = Request(case=case, workload=self.workload, visible_devices=",".join(chosen))
            return self._run(request, on_phase)

    def check(self, nodeid: str, table: str, row: str, measurement: Measurement, seconds: float) -> Result:
        """
        Judge a measurement and, if the run is to do so, make it the baseline.

        Raises:
            BaselineError: the baseline cannot be read or written.
        """
        against = self.store.find(measurement, table, row)
        verdict = judge(measurement, against, self._tolerances)
        decision, message = self._decide(row, verdict, measurement, has_baseline=against is not None)
        mode = self._update_mode(verdict)
        if mode is not None and should_record(mode, verdict):
            decision, message = self._record((table, row), measurement, mode, decision, message)
        return Result(
            nodeid=nodeid,
            table=table,
            row=row,
            measurement=measurement,
            verdict=verdict,
            decision=decision,
            message=message,
            seconds=seconds,
        )

    def close(self) -> None:
        """End every measuring process."""
        if self._executor is not None:
            self._executor.close()

    def _run(self, request: Request, on_phase: Callable[[Phase], None]) -> tuple[Measurement, float]:
        missing = [name for name in (STACK[:1] if request.case.step else STACK) if find_spec(name) is None]
        if missing:
            raise GateError(f"{', '.join(missing)} not installed; pip install 'pytest-llmbench[train]'")
        if self._executor is None:
            self._executor = self._start()
        started = time.monotonic()
        measurement = self._executor.run(request, on_phase)
        return measurement, time.monotonic() - started

    def _start(self) -> Executor:
        environ = {
            # A custom step is imported where the test that names it is.
            "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, os.environ.get("PYTHONPATH")])),
            # Asking CUDA how many GPUs there are, as peft does when imported, would spoil it for forked processes.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        }
        return LocalExecutor(
            timeout_seconds=self._settings.timeout_seconds, announce=self._announce, environ={**os.environ, **environ}
        )

    def _decide(
        self, row: str, verdict: RowVerdict, measurement: Measurement, *, has_baseline: bool
    ) -> tuple[Decision, str]:
        if measurement.outcome == "unavailable" and not has_baseline:
            return "skip", f"unavailable: {measurement.reason}"
        if verdict.failed:
            return "fail", failure_sentence(row, verdict)
        if verdict.status != "no baseline":
            return "pass", ""
        hint = f"{row}: {verdict.reason}; record one with --llmbench-update=missing"
        return ("skip" if self._settings.missing == "skip" else "fail"), hint

    def _update_mode(self, verdict: RowVerdict) -> UpdateMode | None:
        if self._settings.update is None and self._settings.missing == "record":
            return "missing" if verdict.status == "no baseline" else None
        return self._settings.update

    def _record(
        self, name: tuple[str, str], measurement: Measurement, mode: UpdateMode, decision: Decision, message: str
    ) -> tuple[Decision, str]:
        because = self._settings.reason or f"recorded by --llmbench-update={mode}"
        try:
            path = self.store.record(*name, measurement, because)
        except RefusedUpdate as refusal:
            return ("fail" if decision == "pass" else decision), f"{message}\n{refusal}".strip()
        before = f" (before: {message.splitlines()[0]})" if message and decision == "fail" and mode != "missing" else ""
        return "pass", f"recorded in {_short(path)}{before}"


def _find_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that a measuring process would see, and why if there are none."""
    try:
        with open_nvml() as nvml:
            return visible_gpus(nvml, os.environ), "CUDA_VISIBLE_DEVICES hides every GPU"
    except NvmlUnavailable as error:
        return (), str(error)


def _reusable(result: Result, case: Case, workload: Workload) -> bool:
    """A result of the very same work that came to an end; what crashed or hung is measured again."""
    measurement = result.measurement
    same = measurement.case == case and measurement.workload == workload
    return same and measurement.outcome in ("ok", "oom", "unavailable")


def _short(path: Path) -> str:
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
