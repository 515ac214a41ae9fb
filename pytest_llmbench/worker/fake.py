"""
Measuring one case on tensors without content: what a step does at full size, on a machine that could not run it.

A few micro-batches are traced, and the memory of all is computed from them by the rules of torch's allocator. What
Python does is counted on the case's miniature, with real tensors.
"""

from __future__ import annotations

import bisect
import math
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import msgspec
import torch

from pytest_llmbench.engine.adapters import count_parameters
from pytest_llmbench.engine.attention import effective_attention
from pytest_llmbench.engine.custom import build_custom
from pytest_llmbench.engine.fake.gpu import AsOnGpu, as_on_a_gpu
from pytest_llmbench.engine.loop import AnyTraining, Ran, SelfDriven, Watch, run_steps
from pytest_llmbench.engine.outcomes import FellBack, Unavailable
from pytest_llmbench.engine.provenance import attention_fallback, describe_parts
from pytest_llmbench.engine.recomputation import Recomputation
from pytest_llmbench.engine.rounds import (
    WARM_UP_MICRO_BATCHES,
    by_cost,
    cheapest_and_costliest,
    collector_off,
    counted_micro_batches,
)
from pytest_llmbench.engine.training import FineTuning, build_fine_tuning
from pytest_llmbench.probes.places import Places
from pytest_llmbench.probes.purposes import WORKSPACES, Purpose, PurposeOf
from pytest_llmbench.probes.python import PythonRecorder
from pytest_llmbench.probes.reserving import Allocator, Block, OutOfMemory
from pytest_llmbench.probes.storages import CARD, Event, Features, NotAlike, Role, Storages, Stretch, Template, template
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.schema.profile import TAKEN, Profile
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.worker.devices import Devices
from pytest_llmbench.worker.notes import Notes
from pytest_llmbench.worker.passes import note_profile, note_python

__all__ = [
    "MOST_EVENTS",
    "Marked",
    "Peaks",
    "Run",
    "Traced",
    "build_traced",
    "check_ran",
    "features_of",
    "fitted_of",
    "note_fake",
    "note_parts",
    "peaks",
    "pieces",
    "traced_whole",
    "untraceable",
]

NO_CONTENT = "tensors without content have no values, and nothing is timed on them"
_MULTIPLYING_BYTES = (32 * 2**20, 2**20)
"""Memory that cuBLAS and cuBLASLt take from torch's allocator on a Hopper GPU, in each thread that multiplies."""
_FITTED = 4
"""Lengths of micro-batches that are traced."""
MOST_EVENTS = 300_000
"""If micro-batches have more together, they are not traced one by one."""


class Traced(NamedTuple):
    """What the storages of a training do, in pieces of which any run is made up."""

    build: Sequence[Event]
    first: Template
    """The first micro-batch of an optimizer step."""
    next: Template
    """Any other micro-batch."""
    steps: tuple[Sequence[Event], Sequence[Event]]
    """The first optimizer step, in which its state appears, and any other."""
    features: Sequence[Features]
    """By micro-batch of the rounds."""
    accumulation_steps: int

    def warm_up(self) -> Iterator[Event]:
        """The events of the first micro-batches and their optimizer step."""
        yield from self._micro_batches(range(min(WARM_UP_MICRO_BATCHES, len(self.features))))
        yield from self.steps[0]

    def rounds(self) -> Iterator[Event]:
        """The events of every micro-batch, in whole optimizer steps."""
        for start in range(0, len(self.features), self.accumulation_steps):
            yield from self._micro_batches(range(start, start + self.accumulation_steps))
            yield from self.steps[1]

    def _micro_batches(self, indices: Sequence[int]) -> Iterator[Event]:
        for position, index in enumerate(indices):
            yield from (self.next if position else self.first).at(self.features[index])


class Run(NamedTuple):
    """What the storages of a training do, traced from its beginning to its end."""

    build: Sequence[Event]
    warm: Sequence[Event]
    steps: Sequence[Event]

    def warm_up(self) -> Iterator[Event]:
        """The events of the first micro-batches and their optimizer step."""
        return iter(self.warm)

    def rounds(self) -> Iterator[Event]:
        """The events of every micro-batch, in whole optimizer steps."""
        return iter(self.steps)


class Peaks(NamedTuple):
    """The most bytes by GPU."""

    allocated: tuple[int, ...]
    allocated_steady: tuple[int, ...] | None
    """In the rounds; None if they were not reached."""
    reserved: tuple[int, ...]
    reason: str | None = None
    """Why it went no further."""
    made_of: Sequence[Mapping[Purpose, int]] = ()
    """The most allocated bytes by what they are for, if that was asked for."""


def peaks(traced: Traced | Run, num_gpus: int, limit: int | None = None, purposes: PurposeOf | None = None) -> Peaks:
    """
    What torch's allocator would reach, on each of so many GPUs.

    Args:
        limit: bytes that a GPU has for tensors; None for no end of them.
        purposes: what storages are for, as `Purposes.of`; None where that is not asked for.
    """
    gpus = [Allocator(limit, index) for index in range(num_gpus)]
    memory = _Replay(gpus) if purposes is None else _Explained(gpus, purposes)
    steady = None
    try:
        memory.run(traced.build)
        for number in range(num_gpus):
            for size in 2 * _MULTIPLYING_BYTES:  # of the forward pass's thread, and of the backward pass's
                memory.take(Event("between", ("multiplying", 0), number, True, size))
        memory.run(traced.warm_up())
        for gpu in gpus:
            gpu.reset_peak()
        memory.run(traced.rounds())
        steady = tuple(gpu.peak_allocated for gpu in gpus)
        reason = None
    except OutOfMemory as error:
        reason = str(error)
    allocated, reserved = (tuple(gpu.most_allocated for gpu in gpus), tuple(gpu.peak_reserved for gpu in gpus))
    return Peaks(allocated, steady, reserved, reason, memory.made_of)


class _Replay:
    """Hands storages to allocators, and takes them back."""

    made_of: Sequence[Mapping[Purpose, int]] = ()

    def __init__(self, gpus: Sequence[Allocator]) -> None:
        self._gpus = gpus
        self._alive: dict[tuple[Role, object], deque[tuple[Event, Block]]] = {}

    def run(self, events: Iterator[Event] | Sequence[Event]) -> None:
        """
        Raises:
            OutOfMemory: a GPU has no room for a storage.
        """
        for event in events:
            if event.size > 0:
                self.take(event)
            elif event.size < 0:
                key = (event.role, event.name)
                found = self._alive.get(key) or self._alive.get((_OTHER.get(event.role, event.role), event.name))
                if found:
                    self.give_back(*(found.pop() if event.own else found.popleft()))

    def take(self, event: Event) -> Block:
        """
        Raises:
            OutOfMemory: the GPU has no room for it.
        """
        block = self._gpus[event.gpu].take(event.size)
        self._alive.setdefault((event.role, event.name), deque()).append((event, block))
        return block

    def give_back(self, came: Event, block: Block) -> None:
        """The storage that came so is gone."""
        self._gpus[came.gpu].give_back(block)


class _Explained(_Replay):
    """Knows what the peak of each GPU is for."""

    def __init__(self, gpus: Sequence[Allocator], purposes: PurposeOf) -> None:
        super().__init__(gpus)
        self._purposes = purposes
        self._now: list[Counter[Purpose]] = [Counter() for _ in gpus]
        self._most: list[int] = [0 for _ in gpus]
        self._at_most: list[Mapping[Purpose, int]] = [{} for _ in gpus]
        self.made_of = self._at_most

    def take(self, event: Event) -> Block:
        block = super().take(event)
        number, allocated = event.gpu, self._gpus[event.gpu].allocated
        self._now[number][self._purpose(event)] += block.size
        if allocated > self._most[number]:
            self._most[number] = allocated
            self._at_most[number] = dict(self._now[number])
        return block

    def give_back(self, came: Event, block: Block) -> None:
        self._now[came.gpu][self._purpose(came)] -= block.size
        super().give_back(came, block)

    def _purpose(self, came: Event) -> Purpose:
        return self._purposes.get((came.role, came.name), WORKSPACES)


_OTHER: Mapping[Role, Role] = {"first": "next", "next": "first"}
"""What one micro-batch leaves to the next goes in each of them, the first one included."""


class Marked(SelfDriven):
    """
    A training that cuts a log of storages where its micro-batches and optimizer steps begin.

    One that steps its optimizer by itself is cut into whole steps, and only the very first differs from the others.
    """

    def __init__(self, training: AnyTraining, storages: Storages, *, whole: bool) -> None:
        super().__init__(training)
        self._training = training
        self._storages = storages
        self._whole = whole
        self.results: dict[int, StepResult] = {}
        """By micro-batch, of those that ran."""

    def run(self, steps: Sequence[Sequence[int]], watch: Watch) -> Ran:
        return run_steps(self._training, steps, (_WholeMarks if self._whole else _Marks)(self, watch, steps))


class _Marks(Watch):
    def __init__(self, marked: Marked, watch: Watch, steps: Sequence[Sequence[int]]) -> None:
        self._marked = marked
        self._watch = watch
        self._order = iter([index for step in steps for index in step])
        self._role: Role = "first"
        self._index = 0

    def step_begins(self) -> None:
        self._role = "first"
        self._watch.step_begins()

    def micro_batch_begins(self) -> None:
        self._index = next(self._order, self._index + 1)  # a step of the user's own runs whole optimizer steps
        self.mark(self._role, self._index)
        self._role = "next"
        self._watch.micro_batch_begins()

    def mark(self, role: Role, index: int = -1) -> None:
        """Cut the log."""
        self._marked._storages.begin(role, index)

    def micro_batch_ended(self, result: StepResult) -> None:
        self._marked.results[self._index] = result._replace(loss=None)
        self._watch.micro_batch_ended(result)

    def gradients_ready(self) -> None:
        self.mark("step")
        self._watch.gradients_ready()

    def step_ended(self) -> None:
        self._watch.step_ended()


class _WholeMarks(_Marks):
    def step_begins(self) -> None:
        begun = any(stretch.role == "first" for stretch in self._marked._storages.stretches)
        self._marked._storages.begin("next" if begun else "first", 0)
        self._watch.step_begins()

    def mark(self, role: Role, index: int = -1) -> None:
        pass


def note_fake(case: Case, workload: Workload, devices: Devices, notes: Notes) -> None:
    """
    Everything that tensors without content tell of a case.

    Raises:
        Unavailable: the case cannot be traced.
        OutOfMemory: it does not fit the memory that the workload names.
        FellBack: something else ran than the case asked for.
    """
    for name in METRICS:
        notes.metric(name, None, NO_CONTENT)
    with notes.phase("miniature"):
        python = _note_miniature(case, workload, devices, notes)
    with as_on_a_gpu(workload.memory_bytes) as machine:
        try:
            _trace(case, workload, devices, python, machine, notes)
        except (NotImplementedError, RuntimeError) as error:
            raise untraceable(error) from error


def _note_miniature(case: Case, workload: Workload, devices: Devices, notes: Notes) -> PythonRecorder | None:
    """What Python does, on real tensors; None where there is no miniature, or none that runs."""
    why = "a step of the user's own has no miniature, whose Python could be counted"
    if case.step is None:
        small = msgspec.structs.replace(workload, scale="smoke", device="cpu", samples=1)
        try:
            training = build_fine_tuning(case, small, devices.first)
            run_steps(training, [range(min(2, len(training.micro_batch_tokens)))], Watch())
            return note_python(training, devices, notes)
        except Exception as error:  # noqa: BLE001 - the row itself is traced, and says what is wrong with it
            why = f"the miniature cannot be run: {type(error).__name__}: {error}".splitlines()[0]
    for name in ("python_calls_per_sample", "python_instructions_per_sample"):
        notes.metric(name, None, why)
    return None


def _trace(  # noqa: PLR0917
    case: Case, workload: Workload, devices: Devices, python: PythonRecorder | None, machine: AsOnGpu, notes: Notes
) -> None:
    storages = Storages(machine.workspace_bytes)
    whole = case.step is not None
    with machine.observed(storages.ran):
        with notes.phase("build"), collector_off():
            built = build_traced(case, workload, devices.first, machine, storages)
        note_parts(built, notes)
        training = Marked(built, storages, whole=whole)
        features = [(1,)] * len(built.micro_batch_tokens) if whole else features_of(built)
        fitted = fitted_of(built, features)
        with notes.phase("trace"), collector_off():
            if whole:
                run_steps(training, [range(built.accumulation_steps)] * 3, Watch())
            else:
                run_steps(training, [[fitted[len(fitted) // 3], *fitted]], Watch())
        blocks = Recomputation(None if whole else training.model)
        with notes.phase("profile"), blocks:
            note_profile(training, python, devices, notes)
        with notes.phase("trace"), collector_off():
            seen = {features[stretch.micro_batch] for stretch in storages.stretches if stretch.role == "first"}
            for index in fitted:
                if not whole and features[index] not in seen:
                    run_steps(training, [[index]], Watch())
    traced: Traced | Run
    try:
        traced = pieces(storages.stretches, features, built)
    except NotAlike as error:
        with notes.phase("trace"):
            _check_few(storages.stretches, len(built.micro_batch_tokens), error)
            every = Storages(machine.workspace_bytes, 2 * MOST_EVENTS)
            traced = traced_whole(case, workload, devices.first, machine, every)
    with notes.phase("memory"):
        _note_memory(peaks(traced, case.num_gpus, workload.memory_bytes), notes)
    _note_work(built, training.results, storages.stretches, features, notes)
    check_ran(case, effective_attention(case, workload), machine, storages, blocks, notes)


def check_ran(  # noqa: PLR0917
    case: Case, attention: str, machine: AsOnGpu, storages: Storages, blocks: Recomputation, notes: Notes
) -> None:
    """
    Note what ran.

    Raises:
        FellBack: that is not what was asked for.
    """
    notes.ran["imitated"] = machine.told(storages.operators)
    if case.step is not None:
        return
    observed, fallback = attention_fallback(attention, [*machine.kernels, *storages.operators])
    notes.ran["attention"] = observed or "not recognised"
    notes.ran["checkpointing"] = str(blocks)
    if differing := [told for told in (fallback, blocks.differs(asked=case.gradient_checkpointing)) if told]:
        raise FellBack("; ".join(differing))


def _check_few(stretches: Sequence[Stretch], count: int, why: NotAlike) -> None:
    """
    Raises:
        Unavailable: all micro-batches of a run have more events than can be traced.
    """
    sizes = [len(stretch.events) for stretch in stretches if stretch.role in ("first", "next")]
    if sum(sizes) / len(sizes) * (WARM_UP_MICRO_BATCHES + count) > MOST_EVENTS:
        raise Unavailable(
            f"{why}, and it would take minutes to trace {count} micro-batches one by one; ask for fewer samples, "
            "or use a GPU"
        )


def traced_whole(case: Case, workload: Workload, device: torch.device, machine: AsOnGpu, storages: Storages) -> Run:
    """All micro-batches of another training, for one whose micro-batches are not alike."""
    with machine.observed(storages.ran), collector_off():
        built = build_traced(case, workload, device, machine, storages)
        count, per_step = len(built.micro_batch_tokens), built.accumulation_steps
        storages.begin("first")
        run_steps(built, [range(min(WARM_UP_MICRO_BATCHES, count))], Watch())
        storages.begin("next")
        run_steps(built, [range(start, start + per_step) for start in range(0, count, per_step)], Watch())
    return Run(*(stretch.events for stretch in storages.stretches))


def build_traced(
    case: Case, workload: Workload, device: torch.device, machine: AsOnGpu, storages: Storages
) -> AnyTraining:
    """
    The training of a case, its layers split where it has several GPUs.

    Raises:
        Unavailable: it cannot be traced.
    """
    if case.step is not None:
        built = build_custom(case, workload, device)
        storages.built(built.model)
        return built
    if case.parallelism != "split" or case.loop != "step":
        asked = f"loop={case.loop!r}" if case.loop != "step" else f"parallelism={case.parallelism!r}"
        raise Unavailable(f"{asked} cannot be traced on tensors without content; use the plain step, or a GPU")
    built = build_fine_tuning(case, workload, device)
    if machine.split is not None:
        storages.split = machine.split
        for tensor, gpu in machine.split.weights():
            storages.place(tensor, gpu)
    storages.built(built.model)
    return built


def features_of(training: AnyTraining) -> Sequence[Features]:
    """What sizes may depend on, by micro-batch: the longest sample, as it is and as kernels round it, and all tokens."""
    if not isinstance(training, FineTuning):
        return [(1, count, count * count) for count in training.micro_batch_tokens]
    found: list[Features] = []
    for batch in training.batches:
        length = batch.input_ids.shape[1]
        sizes = (1, length, _rounded(length, 128), length * length, length * _rounded(length, 16))
        found.append((*sizes, batch.tokens) if training.batch_size > 1 else sizes)
    return found


def _rounded(length: int, to: int) -> int:
    return -(-length // to) * to


def fitted_of(training: AnyTraining, features: Sequence[Features]) -> list[int]:
    """Micro-batches of a few lengths, the cheapest and the costliest among them, in the order of their cost."""
    order = by_cost(training)
    chosen = {
        features[index]: index for index in (*cheapest_and_costliest(training), *counted_micro_batches(training, 1))
    }
    count = _FITTED if training.batch_size == 1 else 2 * _FITTED
    for position in range(count):
        if len(chosen) < count:
            index = order[position * (len(order) - 1) // max(count - 1, 1)]
            chosen.setdefault(features[index], index)
    return sorted(chosen.values(), key=order.index)


def pieces(stretches: Sequence[Stretch], features: Sequence[Features], training: AnyTraining) -> Traced:
    """
    What was traced, for every micro-batch of the training.

    Raises:
        NotAlike: micro-batches do not make the same tensors.
    """
    by_role: dict[Role, list[Stretch]] = {}
    for stretch in stretches:
        by_role.setdefault(stretch.role, []).append(stretch)
    build = by_role["build"][0].events
    first, following = (template(by_role[role], features.__getitem__) for role in ("first", "next"))
    if "step" not in by_role:  # whole steps, and what the very first one leaves is there for good
        build, first = [*build, *first.events], following
    steps = [stretch.events for stretch in by_role.get("step", ())] or [[]]
    return Traced(build, first, following, (steps[0], steps[-1]), features, training.accumulation_steps)


def note_parts(training: AnyTraining, notes: Notes) -> None:
    """Classes, dtypes and parameters of what is trained."""
    notes.ran.update(describe_parts(training))
    if training.model is not None:
        trainable, total = count_parameters(training.model)
        notes.metric("trainable_parameters", trainable)
        notes.metric("parameters", total)


def _note_memory(found: Peaks, notes: Notes) -> None:
    """
    Raises:
        OutOfMemory: after what was reached has been noted.
    """
    notes.metric("peak_allocated_bytes", found.allocated)
    notes.metric("peak_allocated_steady_bytes", found.allocated_steady, "the rounds were not reached")
    notes.metric("peak_reserved_bytes", found.reserved)
    if found.reason is not None:
        raise OutOfMemory(found.reason)


def roofline_seconds(stretches: Sequence[Stretch], features: Sequence[Features], accumulation_steps: int) -> float:
    """
    The least time of a micro-batch on `CARD`, its share of the optimizer step included: the mean of all.

    Between two lengths that were traced it grows as a straight line.
    """
    traced = {_length(features[one.micro_batch]): math.fsum(one.seconds) for one in stretches if one.role == "next"}
    step = next((math.fsum(one.seconds) for one in reversed(stretches) if one.role == "step"), 0.0)
    points = sorted(traced.items())
    return fmean(_between(points, _length(one)) for one in features) + step / accumulation_steps


def _length(features: Features) -> int:
    return features[1] if len(features) > 1 else 0


def _between(points: Sequence[tuple[int, float]], length: int) -> float:
    """The value at a length, by the two points around it."""
    at = min(max(bisect.bisect_left(points, (length,)), 1), len(points) - 1)
    (low, before), (high, after) = points[max(at - 1, 0)], points[max(at, 0)]
    return before if high == low else before + (after - before) * (length - low) / (high - low)


def _note_work(
    training: AnyTraining,
    results: Mapping[int, StepResult],
    stretches: Sequence[Stretch],
    features: Sequence[Features],
    notes: Notes,
) -> None:
    batches = training.batches if isinstance(training, FineTuning) else list(results.values())
    samples = sum(batch.samples for batch in batches)
    tokens = sum(batch.tokens or 0 for batch in batches)
    notes.metric("tokens_per_sample", tokens / samples if tokens else None, "the step does not count tokens")
    notes.metric("samples_per_micro_batch", samples / len(batches))
    seconds = roofline_seconds(stretches, features, training.accumulation_steps)
    notes.metric("roofline_seconds_per_sample", seconds * len(batches) / samples)
    notes.ran["roofline"] = CARD.name
    if isinstance(notes.profile, Profile):
        notes.metric(
            "operators_per_sample",
            sum(
                rate * sum(done.runs for _, name, done in part.operations() if name != TAKEN)
                for part, rate in notes.profile.rates()
            ),
        )


def untraceable(error: BaseException) -> Unavailable:
    """The operator that asked for a value, and the line that did."""
    told = str(error).splitlines()[0] if str(error) else type(error).__name__
    operator = getattr(error, "func", None)
    places = Places()
    found = [(places.at(frame), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    where = [f" in {place.name}, line {line}" for place, line in found if place.owner == "library"]
    return Unavailable(f"cannot be traced without a GPU: {operator or told}{where[-1] if where else ''}")
