"""
Estimating what memory a case takes, on tensors without content: no more is traced than the memory needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import torch

from pytest_llmbench.engine.attention import effective_attention
from pytest_llmbench.engine.batches import collate
from pytest_llmbench.engine.fake.gpu import AsOnGpu, as_on_a_gpu
from pytest_llmbench.engine.loop import Watch, run_steps
from pytest_llmbench.engine.models import architecture_of
from pytest_llmbench.engine.recomputation import Recomputation
from pytest_llmbench.engine.rounds import collector_off
from pytest_llmbench.engine.training import FineTuning
from pytest_llmbench.probes.purposes import Purposes
from pytest_llmbench.probes.storages import Features, NotAlike, template
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.estimate import CARDS, Estimate, Estimating
from pytest_llmbench.schema.metrics import METRICS
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.worker.devices import Devices
from pytest_llmbench.worker.fake import (
    MOST_EVENTS,
    Marked,
    Peaks,
    Run,
    Traced,
    build_traced,
    check_ran,
    features_of,
    fitted_of,
    note_parts,
    peaks,
    pieces,
    traced_whole,
    untraceable,
)
from pytest_llmbench.worker.notes import Notes

__all__ = ["note_estimate"]

_NOT_ASKED = "only the memory was estimated"
_LENGTH_STEP, _MOST_TOKENS = 64, 2**20
_MOST_SAMPLES = 2**12
_OTHER_LENGTHS = (1999, 1333, 777)
_CHECKED = 3
"""Lengths or batches that are traced: two give a size, and the third checks it."""
_MICRO_BATCHES = 3
"""Micro-batches of one shape in an optimizer step; another one would take no more memory."""

Shape = tuple[int, int]
"""Samples of a micro-batch, and the tokens of each."""


def note_estimate(case: Case, workload: Workload, asked: Estimating, devices: Devices, notes: Notes) -> None:
    """
    The memory of a case, and nothing else.

    Raises:
        Unavailable: the case cannot be traced.
        FellBack: something else ran than the case asked for.
    """
    for name in METRICS:
        notes.metric(name, None, _NOT_ASKED)
    with as_on_a_gpu(workload.memory_bytes) as machine:
        try:
            _Estimator(case, workload, devices.first, machine, notes).run(asked)
        except (NotImplementedError, RuntimeError) as error:
            raise untraceable(error) from error


class _Estimator:
    """One case, built once and traced as far as each question needs."""

    def __init__(self, case: Case, workload: Workload, device: torch.device, machine: AsOnGpu, notes: Notes) -> None:
        self._case = case
        self._machine = machine
        self._notes = notes
        self._workload = workload
        self._device = device
        self._storages = self._purposes = Purposes(machine.workspace_bytes)
        with self._watched("build"):
            self._built = build_traced(case, workload, device, machine, self._storages)
        self._marked = Marked(self._built, self._storages, whole=case.step is not None)
        self._asked_attention = effective_attention(case, workload)
        self._shapes: list[Shape] = []
        """By micro-batch, once those of the workload are traced."""
        self._even_from = 0
        """The stretch from which on micro-batches are of `_shapes`."""
        note_parts(self._built, notes)

    def run(self, asked: Estimating) -> None:
        """Note the estimate."""
        blocks = Recomputation(None if self._case.step is not None else self._built.model)
        with self._watched("trace"), blocks:
            traced: Traced | Run = (
                self._as_measured() if asked.length is None else self._even([(self._case.batch_size, asked.length)])
            )
        with self._notes.phase("memory"):
            found = peaks(traced, self._case.num_gpus, purposes=self._purposes.of)
            self._notes.metric("peak_allocated_bytes", found.allocated)
            self._notes.metric("peak_allocated_steady_bytes", found.allocated_steady)
            self._notes.metric("peak_reserved_bytes", found.reserved)
            fullest = max(range(self._case.num_gpus), key=found.allocated.__getitem__)
            parts = sorted(found.made_of[fullest].items(), key=lambda part: -part[1])
            estimate = Estimate(
                allocated_bytes=found.allocated,
                reserved_bytes=found.reserved,
                made_of={purpose: size for purpose, size in parts if size},
                fits={card: self._fits(traced, limit, found) for card, limit in CARDS.items()},
            )
        if asked.card_bytes is not None:
            fits = self._fits(traced, asked.card_bytes, found)
            estimate = self._with_largest(msgspec.structs.replace(estimate, fits_card=fits), asked.card_bytes)
        self._notes.estimate = estimate
        check_ran(self._case, self._asked_attention, self._machine, self._storages, blocks, self._notes)

    @contextmanager
    def _watched(self, phase: str) -> Iterator[None]:
        """A phase in which every storage is noted."""
        storages = self._storages
        with (
            self._notes.phase(phase),
            collector_off(),
            self._machine.observed(storages.ran),
            storages.optimizers_watched(),
        ):
            yield

    def _as_measured(self) -> Traced | Run:
        """
        The micro-batches that a measurement has.

        Raises:
            Unavailable: they are not alike, and too many.
        """
        built = self._built
        if self._case.step is not None:
            features: Sequence[Features] = [(1,)] * len(built.micro_batch_tokens)
            run_steps(self._marked, [range(built.accumulation_steps)] * 3, Watch())
        else:
            features = features_of(built)
            fitted = fitted_of(built, features)
            begun = fitted[len(fitted) // 3]
            run_steps(self._marked, [[begun, *fitted]], Watch())
            # Of two steps at least, since the state of the optimizer appears in the first.
            for index in [one for one in fitted if features[one] != features[begun]] or [begun]:
                run_steps(self._marked, [[index]], Watch())
        try:
            return pieces(self._storages.stretches, features, built)
        except NotAlike:
            self._purposes = Purposes(self._machine.workspace_bytes, 2 * MOST_EVENTS)
            with self._purposes.optimizers_watched():
                return traced_whole(self._case, self._workload, self._device, self._machine, self._purposes)

    def _even(self, shapes: Sequence[Shape]) -> Traced:
        """
        Micro-batches of the first shape; `_at` gives those of others.

        Raises:
            NotAlike: the shapes do not make the same tensors.
        """
        built, stretches = self._built, self._storages.stretches
        assert isinstance(built, FineTuning)  # which the side that asks sees to
        if not self._shapes:
            built.batches, self._even_from = [], len(stretches)
        for shape in shapes:
            if shape in self._shapes:
                continue
            self._storages.begin("between")
            samples, length = shape
            built.batches = [*built.batches, collate([torch.ones(length, dtype=torch.int64)] * samples)]
            self._shapes.append(shape)
            index = len(self._shapes) - 1
            # Of two steps at least, since the state of the optimizer appears in the first.
            run_steps(self._marked, [[index, index]] if index else [[index, index], [index]], Watch())
        known = stretches[self._even_from :]
        wanted = [one for one in known if one.micro_batch >= 0 and self._shapes[one.micro_batch] in shapes]
        first, following = (
            template([one for one in wanted if one.role == role], lambda index: _features(self._shapes[index]))
            for role in ("first", "next")
        )
        build = next(stretch.events for stretch in stretches if stretch.role == "build")
        steps = [stretch.events for stretch in stretches if stretch.role == "step"]
        return self._at(Traced(build, first, following, (steps[0], steps[-1]), (), 1), shapes[0])

    def _at(self, traced: Traced, shape: Shape) -> Traced:
        count = min(self._case.accumulation_steps, _MICRO_BATCHES)
        return traced._replace(features=[_features(shape)] * count, accumulation_steps=count)

    def _fits(self, traced: Traced | Run, limit: int, free: Peaks | None = None) -> bool:
        """
        Whether a card has room.

        Args:
            free: the peaks where nothing limits them, if they are known: most cards are decided by these.
        """
        if free is not None and max(free.reserved) <= limit:
            return True
        if free is not None and max(free.allocated) > limit:
            return False
        return peaks(traced, self._case.num_gpus, limit).reason is None

    def _with_largest(self, estimate: Estimate, limit: int) -> Estimate:
        """The estimate, with the largest length and batch that fit; why not, where they are not known."""
        if self._case.step is not None:
            reason = "a step of your own makes its own samples"
            return msgspec.structs.replace(estimate, notes={"max_length": reason, "batch_size": reason})
        with self._watched("largest max_length"):
            length = self._largest_length(limit)
        with self._watched("largest batch_size"):
            batch = self._largest_batch(limit)
        return msgspec.structs.replace(
            estimate,
            largest_length=length.number,
            largest_batch=batch.number,
            notes={name: found.note for name, found in (("max_length", length), ("batch_size", batch)) if found.note},
        )

    def _largest_length(self, limit: int) -> _Largest:
        """In whole `_LENGTH_STEP`."""
        samples, length = self._case.batch_size, self._case.max_length
        lengths = [length, *(other for other in _OTHER_LENGTHS if other != length)][:_CHECKED]
        try:
            traced = self._even([(samples, one) for one in lengths])
        except NotAlike as error:
            return _Largest(None, f"other lengths would have to be traced one by one: {error}")
        architecture = architecture_of(self._case.model, "full")
        positions = architecture.max_positions if architecture.family == "hub" else None
        most = min(positions or _MOST_TOKENS, _MOST_TOKENS) // _LENGTH_STEP
        count = _largest(lambda count: self._fits(self._at(traced, (samples, count * _LENGTH_STEP)), limit), most)
        if not count:
            return _Largest(None, f"not even {_LENGTH_STEP} tokens fit")
        note = "more was not tried" if count == most else ""
        return _Largest(count * _LENGTH_STEP, "the model has no more positions" if note and positions else note)

    def _largest_batch(self, limit: int) -> _Largest:
        """Samples of `max_length`."""
        length = self._case.max_length
        if not self._fits(self._even([(1, length)]), limit):
            return _Largest(None, "not even one sample fits")
        try:
            try:
                traced = self._even([(samples, length) for samples in (1, 2, 3)])
            except NotAlike:  # several samples are not worked on as one is
                traced = self._even([(samples, length) for samples in (2, 3, 4)])
        except NotAlike as error:
            return _Largest(None, f"other batches would have to be traced one by one: {error}")
        count = _largest(
            lambda samples: samples == 1 or self._fits(self._at(traced, (samples, length)), limit), _MOST_SAMPLES
        )
        return _Largest(count, "more was not tried" if count == _MOST_SAMPLES else "")


class _Largest(NamedTuple):
    """The largest number that fits, if it is known, and what is to be said of it."""

    number: int | None
    note: str


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to *most* that fits, if all below it do; 0 for none."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _features(shape: Shape) -> Features:
    """What sizes may depend on, as `worker.fake` has it, of samples of one length."""
    samples, length = shape
    alike = (length, -(-length // 128) * 128, length * length, length * -(-length // 16) * 16)
    return (1, *(samples * one for one in alike))
