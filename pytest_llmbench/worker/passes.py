"""
The passes after the rounds, each of which counts something else of a few micro-batches and an optimizer step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import msgspec
from torch.cuda import OutOfMemoryError

from pytest_llmbench.engine import injection
from pytest_llmbench.engine.loop import AnyTraining, Watch, run_steps
from pytest_llmbench.engine.rounds import (
    COUNTED_MICRO_BATCHES,
    cheapest_and_costliest,
    collector_off,
    counted_micro_batches,
)
from pytest_llmbench.probes.activity import DeviceRecorder, OperatorRecorder
from pytest_llmbench.probes.instructions import InstructionRecorder
from pytest_llmbench.probes.kernels import kernel_shares
from pytest_llmbench.probes.operations import (
    LISTED,
    Asked,
    Done,
    Memory,
    OperationRecorder,
    Positions,
    shares,
)
from pytest_llmbench.probes.python import Counts, PythonRecorder
from pytest_llmbench.probes.recorder import NotCounted, Recorder
from pytest_llmbench.schema.extensions import load
from pytest_llmbench.schema.measurement import fullest
from pytest_llmbench.schema.metrics import BUILT_IN, METRICS, NOTHING_SEEN, Value
from pytest_llmbench.schema.profile import TAKEN, Part, Profile, add_to, as_numbers, bounded, file_and_function
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.strict import first_flaw
from pytest_llmbench.worker.devices import Devices
from pytest_llmbench.worker.notes import Notes

__all__ = [
    "note_activity",
    "note_instructions",
    "note_operators",
    "note_probe",
    "note_profile",
    "note_python",
    "record",
]

_OF_OPERATIONS = (
    "host_reads_per_sample",
    "flops_per_sample",
    "moved_bytes_per_sample",
    "peak_live_bytes",
    "retained_bytes_per_step",
)


def note_activity(training: AnyTraining, devices: Devices, notes: Notes) -> list[str]:
    """Device-busy time, kernels and waits per sample; the kernel names seen."""
    names = ("device_busy_seconds_per_sample", "kernels_per_sample", "synchronisations_per_sample", "host_bound")
    if not devices.num_gpus:
        _note_missing(names, "measured on the CPU", notes)
        return []
    recorder = DeviceRecorder(devices.synchronise)
    samples = record(training, recorder)
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


def note_operators(training: AnyTraining, notes: Notes) -> list[str]:
    """ATen operators per sample, from one micro-batch and one optimizer step; the names of all operators."""
    recorder = OperatorRecorder()
    samples = record(training, recorder, 1)
    micro, step = recorder.micro_batches, recorder.optimizer_step
    rates = _Rates(1 / samples, 1 / _samples_per_step(training))
    notes.metric("operators_per_sample", rates.together(_num_aten(micro), _num_aten(step)))
    return list(micro)


def note_python(training: AnyTraining, devices: Devices, notes: Notes) -> PythonRecorder | None:
    """Calls and bytecode instructions; what was counted, or None if nothing was."""
    try:
        recorder = PythonRecorder(all_threads=devices.num_gpus > 0, without=injection.__file__)
        with collector_off():  # a collection would add what finalizers do, now and then
            samples = record(training, recorder, 1)
    except NotCounted as error:
        for name in ("python_calls_per_sample", "python_instructions_per_sample"):
            notes.metric(name, None, str(error))
        return None
    rates = _Rates(1 / samples, 1 / _samples_per_step(training))
    micro, step = recorder.micro_batches, recorder.optimizer_step
    notes.metric("python_calls_per_sample", rates.together(micro.calls, step.calls))
    notes.metric("python_instructions_per_sample", rates.together(micro.instructions, step.instructions))
    return recorder


def note_instructions(training: AnyTraining, notes: Notes) -> None:
    """Machine instructions of the host."""
    name = "host_instructions_per_sample"
    try:
        recorder = InstructionRecorder()
        with collector_off():
            samples = record(training, recorder, 1)
    except NotCounted as error:
        notes.metric(name, None, str(error))
        return
    rates = _Rates(1 / samples, 1 / _samples_per_step(training))
    notes.metric(name, rates.together(recorder.micro_batches, recorder.optimizer_step))


def note_profile(training: AnyTraining, python: PythonRecorder | None, devices: Devices, notes: Notes) -> None:
    """
    Operators by name and place, reads of the host, flops, bytes, and the tensors that are alive.

    The peak is that of the costliest micro-batch and its optimizer step. Counts are of one micro-batch and one
    optimizer step. What a step leaves behind is seen after another one like it, which is left out where all that the
    counted one made is gone: it would do the same again.
    """
    recorder = OperationRecorder(devices.first, training.optimizer)
    order = counted_micro_batches(training, 1)
    watch = _Recorded(recorder)
    try:
        with collector_off(), recorder:  # a collection would look at hundreds of thousands of events, again and again
            run_steps(training, [cheapest_and_costliest(training)], Watch())
            devices.synchronise()
            peak_until = recorder.memory.position()
            before = recorder.memory.settled()
            run_steps(training, [order], watch)
            first = second = recorder.memory.settled()
            if any(_changes(recorder.memory, before, first, devices)):
                run_steps(training, [order], Watch())
                second = recorder.memory.settled()
    except OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the rounds ran; what cannot run under a dispatch mode has no profile
        _note_no_profile(f"the step cannot be watched: {type(error).__name__}: {error}".splitlines()[0], notes)
        return
    if not recorder.micro_batches:
        _note_no_profile(NOTHING_SEEN, notes)
        return
    rates = _Rates(1 / watch.samples, 1 / _samples_per_step(training))

    def per_sample(of: Callable[[Done], int]) -> float:
        return rates.together(*(sum(map(of, part.values())) for part in recorder.parts))

    notes.metric("flops_per_sample", per_sample(lambda done: done.flops))
    notes.metric("moved_bytes_per_sample", per_sample(lambda done: done.moved_bytes))
    taken = 0.0
    if python is not None:
        taken = rates.together(python.micro_batches.reads, python.optimizer_step.reads)
    seen = python is not None or devices.num_gpus > 0
    reads = per_sample(lambda done: done.reads) + taken
    notes.metric("host_reads_per_sample", reads if seen else None, "calls could not be counted")
    tokens = training.micro_batch_tokens
    notes.model_flops_per_sample = (
        per_sample(lambda done: done.flops - done.recomputed_flops)
        * fmean(tokens)
        / fmean(tokens[index] for index in order)
    )
    retained = _note_live(recorder.memory, peak_until, (first, second), devices, notes)
    if retained and (graph := recorder.graph_left()):
        retained = {str(graph): sum(retained.values())}  # whoever holds its end holds all of it
    python_parts: tuple[Counts | None, Counts | None] = (None, None)
    if python is not None:
        python_parts = (python.micro_batches, python.optimizer_step)
    micro, step = map(_part, recorder.parts, python_parts)
    notes.profile = bounded(
        Profile(
            samples=watch.samples,
            samples_per_step=_samples_per_step(training),
            micro_batch=micro,
            optimizer_step=step,
            retained=retained,
        )
    )


def _note_no_profile(reason: str, notes: Notes) -> None:
    for name in _OF_OPERATIONS:
        notes.metric(name, None, reason)


def _note_live(
    memory: Memory, peak_until: Positions, ends: tuple[Positions, Positions], devices: Devices, notes: Notes
) -> dict[str, int]:
    """Peak of live tensors, and what it is made up of on the fullest device; what a step leaves behind on one."""
    peaks = [memory.peak(device, peak_until.get(device, 0)) for device in devices.all]
    notes.metric("peak_live_bytes", tuple(peak.bytes for peak in peaks))
    notes.peak_allocations = fullest(
        shares(memory.live(device, peak.position)) for device, peak in zip(devices.all, peaks, strict=True)
    )
    kept = _changes(memory, *ends, devices)
    notes.metric("retained_bytes_per_step", tuple(sum(sizes.values()) for sizes in kept))
    most = max(kept, key=lambda sizes: sum(map(abs, sizes.values())))
    return {str(asked): size for asked, size in sorted(most.items(), key=lambda one: -abs(one[1]))[:LISTED]}


def _changes(memory: Memory, first: Positions, second: Positions, devices: Devices) -> list[dict[Asked, int]]:
    """Bytes that came and stayed between two positions, of each device by who asked."""
    return [memory.between(device, first.get(device, 0), second.get(device, 0)) for device in devices.all]


def _part(operators: Mapping[Asked, Done], python: Counts | None) -> Part:
    by_place: dict[str, dict[str, list[int]]] = {}
    for asked, done in operators.items():
        counts = (done.count, done.moved_bytes, done.flops, done.reads)
        add_to(by_place, (asked.place, asked.operator.removeprefix("aten::")), counts)
    places: dict[str, dict[str, list[int]]] = {}
    inner: dict[str, dict[str, list[int]]] = {}
    for cell in python.cells.values() if python else ():
        add_to(places, file_and_function(cell.place), (cell.calls, cell.instructions))
        if cell.place != cell.name:
            add_to(inner, file_and_function(cell.name), (cell.calls, cell.instructions))
        if cell.reads:
            add_to(by_place, (cell.place, TAKEN), (cell.reads, 0, 0, cell.reads))
    return Part(operators=as_numbers(by_place), python=as_numbers(places), inner=as_numbers(inner))


class _Rates(NamedTuple):
    """How often the two parts of a pass recur per sample."""

    micro_batches: float
    optimizer_step: float

    def together(self, micro_batches: float, optimizer_step: float) -> float:
        """The two parts' counts, per sample."""
        return micro_batches * self.micro_batches + optimizer_step * self.optimizer_step


def note_probe(name: str, training: AnyTraining, devices: Devices, notes: Notes) -> None:
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


def record(training: AnyTraining, recorder: Recorder, count: int = COUNTED_MICRO_BATCHES) -> int:
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


def _samples_per_step(training: AnyTraining) -> int:
    return training.batch_size * training.accumulation_steps
