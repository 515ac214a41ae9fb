"""
Measuring one case in this process: build, warm up, timed rounds, then the passes that count.

Reads top-down: `measure` is the whole life of a measuring process, each function below it a phase.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import torch

from pytest_llmbench.engine import injection
from pytest_llmbench.engine.adapters import count_parameters
from pytest_llmbench.engine.attention import effective_attention
from pytest_llmbench.engine.custom import build_custom
from pytest_llmbench.engine.injection import Injected
from pytest_llmbench.engine.loop import AnyTraining, Watch, run_steps
from pytest_llmbench.engine.outcomes import Diverged, FellBack, Unavailable
from pytest_llmbench.engine.provenance import attention_fallback, describe_parts
from pytest_llmbench.engine.recomputation import Recomputation
from pytest_llmbench.engine.rounds import (
    COUNTED_MICRO_BATCHES,
    Trail,
    cheapest_and_costliest,
    collector_off,
    counted_micro_batches,
    run_rounds,
    warm_up,
)
from pytest_llmbench.engine.training import build_fine_tuning
from pytest_llmbench.probes.activity import DeviceRecorder, OperatorRecorder
from pytest_llmbench.probes.allocations import PeakRecorder
from pytest_llmbench.probes.allocator import allocation_failure
from pytest_llmbench.probes.calls import CallRecorder
from pytest_llmbench.probes.compilations import compiled_graphs
from pytest_llmbench.probes.instructions import InstructionRecorder
from pytest_llmbench.probes.kernels import kernel_shares
from pytest_llmbench.probes.recorder import NotCounted, Recorder
from pytest_llmbench.probes.trace import TraceRecorder
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.extensions import load, offered
from pytest_llmbench.schema.measurement import Measurement, Outcome, Round, fullest, now
from pytest_llmbench.schema.metrics import BUILT_IN, METRICS, Value, add_extensions
from pytest_llmbench.schema.protocol import Phase, Request, Surroundings
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.strict import first_flaw
from pytest_llmbench.schema.workload import Injection, Workload
from pytest_llmbench.worker.devices import Devices
from pytest_llmbench.worker.notes import Notes

__all__ = ["measure"]


def measure(request: Request, report: Callable[[Phase | Surroundings], None]) -> Measurement:
    """
    Run the case once and say what it gave; every expected failure becomes an outcome.

    Args:
        request: the case and how to measure it; CUDA_VISIBLE_DEVICES is already set.
        report: called with the environment once it is known, when a phase begins, and after each
            round with the speed so far.

    Raises:
        CaseError: the case cannot be run as written, on any machine.
        ImportError: a library that the case needs is not installed.
    """
    add_extensions()
    notes = Notes(report)
    if request.workload.scale == "smoke" and request.workload.device == "cpu":
        torch.set_num_threads(1)  # threads gain a miniature nothing, and wait for each other on a busy machine
    with notes.phase("devices"):
        devices = Devices(request.workload.device, request.case.num_gpus // request.case.num_ranks)
        environment = devices.environment(request)
        report(Surroundings(environment))
    outcome, reason = _outcome(request, devices, notes)
    notes.evidence(*devices.evidence())
    if outcome == "ok":
        with notes.phase("canary"):
            for name, value, why in devices.canary():
                notes.observe(name, value, why)
    return Measurement(
        case=request.case,
        workload=request.workload,
        environment=environment,
        processes=(notes.process(outcome, reason),),
        measured_at=now(),
    )


def _outcome(request: Request, devices: Devices, notes: Notes) -> tuple[Outcome, str | None]:
    try:
        _run(request, devices, notes)
    except torch.cuda.OutOfMemoryError as error:
        devices.note_memory(next(reversed(notes.phase_seconds)))
        _note_memory(devices, notes)
        return "oom", allocation_failure(error)
    except Diverged as error:
        return "diverged", str(error)
    except FellBack as error:
        return "invalid", str(error)
    except Unavailable as error:
        return "unavailable", str(error)
    return "ok", None


def _run(request: Request, devices: Devices, notes: Notes) -> None:
    case, workload = request.case, request.workload
    with notes.phase("build"):
        training = _build(case, workload, devices.first)
        devices.synchronise()
    devices.note_memory("build")
    notes.metric("load_seconds", notes.phase_seconds["build"])
    _note_parts(training, notes)
    with notes.phase("warm-up"):
        notes.metric("first_step_seconds", warm_up(training, devices.synchronise))
    devices.note_memory("warm-up")
    if workload.injection is not None:
        with notes.phase("injection"):
            cost = _cost_of(workload.injection, training, devices)
            training = Injected(training, workload.injection, devices.first, cost)
        devices.note_memory("injection")
    with notes.phase("rounds"):
        trail = _run_rounds(training, devices, notes)
    _note_rounds(trail, notes)
    _note_energy(trail, devices, notes)
    _note_memory(devices, notes)
    with notes.phase("activity"):
        kernels = _note_activity(training, devices, notes)
    blocks = Recomputation(training.model if case.step is None else None)
    with notes.phase("operators"), blocks:
        operators = _note_operators(training, notes)
    if request.explain_peak:
        with notes.phase("peak"):
            _note_peak(training, devices, notes)
    with notes.phase("calls"):
        calls = partial(CallRecorder, all_threads=devices.num_gpus > 0, without=injection.__file__)
        _note_count("python_calls_per_sample", calls, training, notes)
    with notes.phase("instructions"):
        devices.synchronise()  # nothing of the passes before is to be waited for
        _note_count("host_instructions_per_sample", InstructionRecorder, training, notes)
    for name in offered("probes"):
        with notes.phase(name):
            _note_probe(name, training, devices, notes)
    if request.trace is not None:
        with notes.phase("trace"):
            _record(training, TraceRecorder(Path(request.trace), devices.synchronise), 1)
    if case.step is None:
        requested = effective_attention(case, workload)
        observed, fallback = attention_fallback(requested, [*kernels, *operators])
        notes.ran["attention"] = observed or "not recognised"
        notes.ran["checkpointing"] = str(blocks)
        differing = [told for told in (fallback, blocks.differs(asked=case.gradient_checkpointing)) if told]
        if differing:
            raise FellBack("; ".join(differing))


def _build(case: Case, workload: Workload, device: torch.device) -> AnyTraining:
    if case.step is not None:
        return build_custom(case, workload, device)
    if case.parallelism != "split":
        from pytest_llmbench.engine.parallel import build_parallel  # imports what no other case needs

        return build_parallel(case, workload, device)
    if case.loop == "trainer":
        from pytest_llmbench.engine.trainer_loop import build_trainer  # imports what no other case needs

        return build_trainer(case, workload, device)
    return build_fine_tuning(case, workload, device)


def _note_parts(training: AnyTraining, notes: Notes) -> None:
    notes.ran.update(describe_parts(training))
    trainable, total = count_parameters(training.model) if training.model is not None else (None, None)
    notes.metric("trainable_parameters", trainable, "the step has no attribute `model` to count")
    notes.metric("parameters", total, "the step has no attribute `model` to count")


def _run_rounds(training: AnyTraining, devices: Devices, notes: Notes) -> Trail:
    def report_speed(done: Round) -> None:
        devices.note_memory("rounds", ask_nvml=False)
        notes.speed("rounds", done.samples / done.seconds)

    before = compiled_graphs()
    with devices.watched():
        trail = run_rounds(training, devices.synchronise, report_speed)
    notes.observe("recompilations", compiled_graphs() - before)
    return trail


def _note_rounds(trail: Trail, notes: Notes) -> None:
    notes.rounds = trail.rounds
    seconds = sum(done.seconds for done in trail.rounds)
    notes.metric("samples_per_second", sum(done.samples for done in trail.rounds) / seconds)
    tokens = sum(done.tokens for done in trail.rounds)
    notes.metric("tokens_per_second", tokens / seconds if tokens else None, "the step does not count tokens")
    losses = [float(loss) for loss in trail.losses]
    norm = None if trail.grad_norm is None else float(trail.grad_norm)
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise Diverged(f"the loss of measured micro-batch {index} is {loss}")
    if norm is not None and not math.isfinite(norm):
        raise Diverged(f"the gradient norm of the last optimizer step is {norm}")
    notes.metric("straggler_spread", None, "the case has no ranks")
    notes.metric("loss_first", losses[0] if losses else None, "the step returns no loss")
    notes.metric("loss_last", losses[-1] if losses else None, "the step returns no loss")
    notes.metric("grad_norm", norm, "the step returns no gradient norm")


def _note_energy(trail: Trail, devices: Devices, notes: Notes) -> None:
    joules, reason = devices.energy_joules(sum(done.seconds for done in trail.rounds))
    samples = sum(done.samples for done in trail.rounds)
    notes.metric("energy_joules_per_sample", None if joules is None else joules / samples, reason)


def _note_memory(devices: Devices, notes: Notes) -> None:
    notes.memory = devices.memory
    for name, value, reason in devices.memory_metrics():
        notes.metric(name, value, reason)


def _note_activity(training: AnyTraining, devices: Devices, notes: Notes) -> list[str]:
    """Device-busy time, kernels and waits per sample; the kernel names seen."""
    names = ("device_busy_seconds_per_sample", "kernels_per_sample", "synchronisations_per_sample", "host_bound")
    if not devices.num_gpus:
        _note_missing(names, "measured on the CPU", notes)
        return []
    recorder = DeviceRecorder(devices.synchronise)
    samples = _record(training, recorder)
    try:
        split = recorder.split()
    except RuntimeError as error:
        _note_missing(names, str(error), notes)
        return []
    micro, step = split.micro_batches, split.optimizer_step
    speed = sum(done.samples for done in notes.rounds) / sum(done.seconds for done in notes.rounds)
    per_sample, per_step_sample = 1 / samples, 1 / _samples_per_step(training)
    busy = micro.busy_seconds * per_sample + step.busy_seconds * per_step_sample
    notes.metric("device_busy_seconds_per_sample", busy)
    parts = ((micro.busy_seconds_by_device, per_sample), (step.busy_seconds_by_device, per_step_sample))
    each = (sum(seconds.get(index, 0.0) * per for seconds, per in parts) for index in range(devices.num_gpus))
    notes.observe("busy_seconds_per_sample", tuple(each))
    notes.metric("kernels_per_sample", micro.kernels * per_sample + step.kernels * per_step_sample)
    waits = micro.synchronisations * per_sample + step.synchronisations * per_step_sample
    notes.metric("synchronisations_per_sample", waits)
    notes.metric("host_bound", busy * speed)
    notes.kernels = kernel_shares(micro, step, per_sample=per_sample, per_step_sample=per_step_sample)
    return [kernel.name for kernel in micro.by_kernel]


def _note_missing(metrics: Sequence[str], reason: str, notes: Notes) -> None:
    """Nothing was seen of the GPUs' activity."""
    for name in metrics:
        notes.metric(name, None, reason)
    notes.observe("busy_seconds_per_sample", None, reason)


def _note_operators(training: AnyTraining, notes: Notes) -> list[str]:
    """ATen operators per sample, from one micro-batch and one optimizer step; the names of all operators."""
    recorder = OperatorRecorder()
    samples = _record(training, recorder, 1)
    micro, step = recorder.micro_batches, recorder.optimizer_step
    per_sample = _num_aten(micro) / samples + _num_aten(step) / _samples_per_step(training)
    notes.metric("operators_per_sample", per_sample)
    return list(micro)


def _note_peak(training: AnyTraining, devices: Devices, notes: Notes) -> None:
    """Parts of the peak of the longest micro-batch and its optimizer step, on the device that holds most."""
    order = cheapest_and_costliest(training)
    with collector_off():  # a collection would look at hundreds of thousands of events, again and again
        with PeakRecorder() as recorder:
            run_steps(training, [order], _RecordedFrom(recorder, len(order) - 1))
            devices.synchronise()
        notes.peak_allocations = fullest(recorder.shares(device) for device in devices.all)


def _note_count(
    name: str, recorder_of: Callable[[], CallRecorder | InstructionRecorder], training: AnyTraining, notes: Notes
) -> None:
    """Something counted per sample, from one micro-batch and one optimizer step."""
    try:
        recorder = recorder_of()
        with collector_off():  # a collection would add what finalizers do, now and then
            samples = _record(training, recorder, 1)
    except NotCounted as error:
        notes.metric(name, None, str(error))
        return
    notes.metric(name, recorder.micro_batches / samples + recorder.optimizer_step / _samples_per_step(training))


def _note_probe(name: str, training: AnyTraining, devices: Devices, notes: Notes) -> None:
    """The metric that a probe of another package measures; whatever it raises is why there is none."""

    def step() -> int:
        watch = _Samples()
        run_steps(training, [counted_micro_batches(training, 1)], watch)
        devices.synchronise()
        return watch.samples

    if name not in METRICS or name in BUILT_IN:
        notes.ran[f"probe {name}"] = "left out, since no package offers a metric of this name"
        return
    try:
        value = msgspec.convert(load("probes", name)(training.model, step), Value)
        flaw = first_flaw(value)
        notes.metric(name, None if flaw else value, f"what the probe gave {flaw.sentence}" if flaw else None)
    except Exception as error:  # noqa: BLE001 - what is measured is the row, and this only beside it
        notes.metric(name, None, f"{type(error).__name__}: {error}")


def _num_aten(operators: Counter[str]) -> int:
    return sum(count for name, count in operators.items() if name.startswith("aten::"))


def _cost_of(injection: Injection, training: AnyTraining, devices: Devices) -> float:
    """What a micro-batch costs before anything is planted; 0 where no slow-down is, which leaves memory as it was."""
    if injection.kind not in ("device", "host"):
        return 0.0
    return _seconds_per_micro_batch(training, devices, of_device=injection.kind == "device")


def _seconds_per_micro_batch(training: AnyTraining, devices: Devices, *, of_device: bool) -> float:
    """Device-busy or wall seconds."""
    chosen = counted_micro_batches(training)
    if of_device and devices.num_gpus:
        recorder = DeviceRecorder(devices.synchronise)
        _record(training, recorder)
        return recorder.split().micro_batches.busy_seconds / len(chosen)
    clock = _MicroBatchClock(devices)
    run_steps(training, [chosen], clock)
    return clock.seconds / len(chosen)


def _record(training: AnyTraining, recorder: Recorder, count: int = COUNTED_MICRO_BATCHES) -> int:
    """Run one optimizer step over so many micro-batches under the recorder; the number of samples they held."""
    watch = _Recorded(recorder)
    with recorder:
        run_steps(training, [counted_micro_batches(training, count)], watch)
    return watch.samples


class _Samples(Watch):
    """Counts the samples of optimizer steps."""

    def __init__(self) -> None:
        self.samples = 0

    def micro_batch_ended(self, result: StepResult) -> None:
        self.samples += result.samples


class _Recorded(_Samples):
    """Tells a recorder of one optimizer step, too."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def step_begins(self) -> None:
        self._recorder.begin()

    def gradients_ready(self) -> None:
        self._recorder.boundary()

    def step_ended(self) -> None:
        self._recorder.end()


class _RecordedFrom(Watch):
    """Tells a recorder of one optimizer step from the micro-batch of this position on."""

    def __init__(self, recorder: Recorder, position: int) -> None:
        self._recorder = recorder
        self._before = position

    def micro_batch_begins(self) -> None:
        if not self._before:
            self._recorder.begin()
        self._before -= 1

    def step_ended(self) -> None:
        self._recorder.end()


class _MicroBatchClock(Watch):
    """Wall time of the micro-batches of one optimizer step."""

    def __init__(self, devices: Devices) -> None:
        self.seconds = 0.0
        self._devices = devices
        self._started = 0.0

    def step_begins(self) -> None:
        self._devices.synchronise()
        self._started = time.perf_counter()

    def gradients_ready(self) -> None:
        self._devices.synchronise()
        self.seconds = time.perf_counter() - self._started


def _samples_per_step(training: AnyTraining) -> int:
    return training.batch_size * training.accumulation_steps
