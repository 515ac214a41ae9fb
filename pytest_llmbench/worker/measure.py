"""
Measuring one case in this process: build, warm up, timed rounds, then the passes that count.

Reads top-down: `measure` is the whole life of a measuring process, each function below it a phase.
"""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pytest_llmbench.engine.adapters import count_parameters
from pytest_llmbench.engine.attention import effective_attention
from pytest_llmbench.engine.custom import build_custom
from pytest_llmbench.engine.injection import Injected
from pytest_llmbench.engine.loop import AnyTraining, Watch, run_steps
from pytest_llmbench.engine.outcomes import Diverged, FellBack, Unavailable
from pytest_llmbench.engine.provenance import attention_fallback, describe_parts
from pytest_llmbench.engine.recomputation import Recomputation
from pytest_llmbench.engine.rounds import (
    Trail,
    counted_micro_batches,
    run_rounds,
    warm_up,
)
from pytest_llmbench.engine.training import build_fine_tuning
from pytest_llmbench.host.cards import card_named
from pytest_llmbench.probes.activity import DeviceRecorder
from pytest_llmbench.probes.allocator import allocation_failure
from pytest_llmbench.probes.compilations import compiled_graphs
from pytest_llmbench.probes.reserving import OutOfMemory
from pytest_llmbench.probes.trace import TraceRecorder
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.extensions import offered
from pytest_llmbench.schema.measurement import Measurement, Outcome, Round, now
from pytest_llmbench.schema.metrics import add_extensions
from pytest_llmbench.schema.protocol import Phase, Request, Surroundings
from pytest_llmbench.schema.workload import Injection, Workload
from pytest_llmbench.worker.devices import Devices
from pytest_llmbench.worker.notes import Notes
from pytest_llmbench.worker.passes import (
    note_activity,
    note_instructions,
    note_operators,
    note_probe,
    note_profile,
    note_python,
    record,
)

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
    gc.freeze()  # the libraries' half a million objects are none of a step's garbage
    notes = Notes(report)
    if request.workload.device == "fake" or (request.workload.scale == "smoke" and request.workload.device == "cpu"):
        torch.set_num_threads(1)  # threads gain a miniature nothing, and wait for each other on a busy machine
    with notes.phase("devices"):
        num_gpus = request.case.num_gpus // request.case.num_ranks
        devices = Devices(request.workload.device, num_gpus, request.workload.memory_bytes)
        environment = devices.environment(request)
        report(Surroundings(environment))
    outcome, reason = _outcome(request, devices, notes)
    notes.evidence(*devices.evidence())
    if outcome == "ok" and request.workload.device != "fake":
        with notes.phase("canary"):
            for name, value, why in devices.canary():
                notes.observe(name, value, why)
        _note_utilization(environment.device, notes)
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
    except OutOfMemory as error:
        return "oom", str(error)
    except Diverged as error:
        return "diverged", str(error)
    except FellBack as error:
        return "invalid", str(error)
    except Unavailable as error:
        return "unavailable", str(error)
    return "ok", None


def _run(request: Request, devices: Devices, notes: Notes) -> None:
    case, workload = request.case, request.workload
    if workload.device == "fake":
        _run_fake(request, devices, notes)
        return
    with notes.phase("build"):
        training = _build(case, workload, devices.first)
        devices.synchronise()
    devices.note_memory("build")
    notes.metric("load_seconds", notes.phase_seconds["build"])
    _note_parts(training, notes)
    notes.metric("roofline_seconds_per_sample", None, "of the fake device alone; here time is measured")
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
        kernels = note_activity(training, devices, notes)
    blocks = Recomputation(training.model if case.step is None else None)
    with notes.phase("operators"), blocks:
        operators = note_operators(training, notes)
    with notes.phase("python"):
        python = note_python(training, devices, notes)
    if request.with_profile:
        with notes.phase("profile"):
            note_profile(training, python, devices, notes)
    with notes.phase("instructions"):
        devices.synchronise()  # nothing of the passes before is to be waited for
        note_instructions(training, notes)
    for name in offered("probes"):
        with notes.phase(name):
            note_probe(name, training, devices, notes)
    if request.trace is not None:
        with notes.phase("trace"):
            record(training, TraceRecorder(Path(request.trace), devices.synchronise), 1)
    notes.metric("peak_rss_bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    if case.step is None:
        requested = effective_attention(case, workload)
        observed, fallback = attention_fallback(requested, [*kernels, *operators])
        notes.ran["attention"] = observed or "not recognised"
        notes.ran["checkpointing"] = str(blocks)
        differing = [told for told in (fallback, blocks.differs(asked=case.gradient_checkpointing)) if told]
        if differing:
            raise FellBack("; ".join(differing))


def _run_fake(request: Request, devices: Devices, notes: Notes) -> None:
    """On tensors without content, which need imports that no other case needs."""
    if request.estimate is not None:
        from pytest_llmbench.worker.estimate import note_estimate

        note_estimate(request.case, request.workload, request.estimate, devices, notes)
        return
    from pytest_llmbench.worker.fake import note_fake

    note_fake(request.case, request.workload, devices, notes)


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
    samples = sum(done.samples for done in trail.rounds)
    tokens = sum(done.tokens for done in trail.rounds)
    notes.metric("tokens_per_second", tokens / seconds if tokens else None, "the step does not count tokens")
    notes.metric("tokens_per_sample", tokens / samples if tokens else None, "the step does not count tokens")
    notes.metric("samples_per_micro_batch", samples / trail.micro_batches)
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


def _note_utilization(device: str, notes: Notes) -> None:
    """Flops of the model per second, over what the card can do: by its data sheet, or by the canary."""
    name, speed = "model_flops_utilization", notes.metrics.get("samples_per_second")
    if notes.model_flops_per_sample is None or not isinstance(speed, float):
        notes.metric(name, None, "flops were not counted in this process")
        return
    card, sung = card_named(device), notes.observed("canary_flops_per_second")
    peak = card.flops_per_second if card else min(sung) if sung else None
    if peak is None:
        notes.metric(name, None, "measured on the CPU" if device == "cpu" else f"the peak of {device} is not known")
        return
    notes.metric(name, notes.model_flops_per_sample * speed / peak)


def _note_energy(trail: Trail, devices: Devices, notes: Notes) -> None:
    joules, reason = devices.energy_joules(sum(done.seconds for done in trail.rounds))
    samples = sum(done.samples for done in trail.rounds)
    notes.metric("energy_joules_per_sample", None if joules is None else joules / samples, reason)


def _note_memory(devices: Devices, notes: Notes) -> None:
    notes.memory = devices.memory
    for name, value, reason in devices.memory_metrics():
        notes.metric(name, value, reason)


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
        record(training, recorder)
        return recorder.split().micro_batches.busy_seconds / len(chosen)
    clock = _MicroBatchClock(devices)
    run_steps(training, [chosen], clock)
    return clock.seconds / len(chosen)


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
