"""
Every storage that comes and goes while a training runs on tensors without content, by what made it.

The log is cut into stretches: the build, micro-batches, optimizer steps. Micro-batches of other lengths make the same
storages, of other sizes, so that a few that were traced tell of all: see `Shape`.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from operator import mul
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from pytest_llmbench.host.cards import CARDS
from pytest_llmbench.probes.operations import Prices

__all__ = ["CARD", "Event", "NotAlike", "Role", "Storages", "Stretch", "Template", "TooMany", "template"]

Role = Literal["build", "first", "next", "step", "between"]
"""
`first` is the micro-batch after an optimizer step, in which gradients appear, `next` any other, `step` the optimizer
step.
"""

_PRICED: tuple[Role, ...] = ("next", "step")
"""The first micro-batch takes as long as the next ones."""

Name = tuple[str, int]
"""Operator, and which of its storages within the stretch."""


CARD = next(card for card in CARDS if card.name == "H100 80GB HBM3")
"""By whose data sheet operators take their time."""
_MOST = 100_000
"""Events of one stretch, about three times as many as a micro-batch of 80 layers has."""


class Places(Protocol):
    """Which tensor is on which GPU."""

    def gpu_of(self, arguments: Any, position: int) -> int:
        """The GPU of what an operator returns at a position."""

    def note(self, storage: int, gpu: int) -> None:
        """A storage is on a GPU."""

    def forget(self, storage: int) -> None:
        """A storage is gone."""


class Event(NamedTuple):
    """A storage comes or goes."""

    role: Role
    """Of the stretch in which it came."""
    name: Name
    gpu: int
    own: bool
    """Whether it came in the stretch of the event."""
    size: int
    """In bytes; -1 where it goes."""


class Stretch(NamedTuple):
    """What came and went in one stretch."""

    role: Role
    micro_batch: int
    """Its index; -1 for another stretch."""
    events: list[Event]
    seconds: list[float]
    """What each operator of the roles in `_PRICED` would take on a card."""


class Storages:
    """
    Notes every storage that an operator gives back, and when it is gone.

    It is told of each operator that `engine.fake.shapes.Shapes` has run.

    Args:
        workspaces: bytes that a kernel of a GPU takes for itself, by the operator's name and its arguments.
        most: events of a stretch.

    Attributes:
        split: where tensors are, if there are several GPUs.
        stretches: what was noted, in the order in which it happened.
    """

    def __init__(self, workspaces: Callable[[str, Sequence[Any]], Iterable[int]], most: int = _MOST) -> None:
        self.stretches: list[Stretch] = []
        self._most = most
        self._workspaces = workspaces
        self._prices = Prices()
        self.split: Places | None = None
        self._alive: dict[int, tuple[Stretch, int]] = {}
        """By the identity of a storage: where the event is in which it came."""
        self._counts: dict[str, int] = {}
        self._names: dict[int, str] = {}
        """By the identity of an operator, which is never freed; empty for one that makes views."""
        self.begin("build")

    def begin(self, role: Role, index: int = -1) -> None:
        """Begin another stretch."""
        self._stretch = Stretch(role, index, [], [])
        self._counts = {}
        self.stretches.append(self._stretch)

    def ran(self, operator: Any, args: Any, result: Any) -> None:
        """Note what an operator returned."""
        name = self._names.get(id(operator))
        if name is None:
            name = self._names[id(operator)] = "" if operator.is_view else operator._schema.name
        if not name:
            return  # a view makes no storage
        if isinstance(result, Tensor):
            self._note(name, result, args, 0)
        elif isinstance(result, (tuple, list)):
            for position, one in enumerate(result):
                if isinstance(one, Tensor):
                    self._note(name, one, args, position)
        workspaces = list(self._workspaces(name, args))
        if self._stretch.role in _PRICED:
            work = self._prices.work(operator, args, result)
            moved = work.moved_bytes + 2 * sum(workspaces)  # what a kernel keeps for itself it writes and reads
            self._stretch.seconds.append(max(work.flops / CARD.flops_per_second, moved / CARD.bytes_per_second))
        for size in workspaces:
            gpu = self.split.gpu_of(args, 0) if self.split else 0
            event = self._event(f"workspace of {name}", size, gpu)
            self._stretch.events.append(event._replace(size=-1))

    def built(self, model: nn.Module | None) -> None:
        """A training is built, over a model if one is known; nothing follows from it here."""

    def place(self, tensor: Tensor, gpu: int) -> None:
        """A tensor that came on the first GPU is on another one."""
        key = tensor.untyped_storage()._cdata
        if self.split is not None and key in self._alive:
            stretch, position = self._alive[key]
            stretch.events[position] = stretch.events[position]._replace(gpu=gpu)
            self.split.note(key, gpu)

    @property
    def operators(self) -> list[str]:
        """Names of all that ran."""
        return [name for name in self._names.values() if name]

    def _note(self, name: str, tensor: Tensor, args: Any, position: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive or tensor.is_meta:
            return
        stretch = self._stretch
        self._alive[key] = (stretch, len(stretch.events))
        gpu = 0
        if self.split is not None:
            gpu = self.split.gpu_of(args, position)
            self.split.note(key, gpu)
        event = self._event(name, storage.nbytes(), gpu)

        def gone() -> None:
            del self._alive[key]
            if self.split is not None:
                self.split.forget(key)
            now = self._stretch
            now.events.append(event._replace(size=-1, own=now is stretch))

        weakref.finalize(storage, gone)

    def _event(self, name: str, size: int, gpu: int) -> Event:
        if len(self._stretch.events) >= self._most:
            raise TooMany(f"more than {self._most:,} times a tensor comes or goes, which takes minutes to trace")
        count = self._counts[name] = self._counts.get(name, -1) + 1
        event = Event(self._stretch.role, (name, count), gpu, True, size)
        self._stretch.events.append(event)
        return event


class TooMany(RuntimeError):
    """A stretch in which so much happens that it would take too long to trace it, as of a loop over tokens."""


class NotAlike(ValueError):
    """Stretches that were to be alike and are not; the message says where."""


Features = tuple[int, ...]
"""What the sizes of a micro-batch may depend on; the first is 1."""
Factors = tuple[Fraction, ...]
"""One per feature: a size is the sum of their products."""


class Template(NamedTuple):
    """A stretch for micro-batches of every length."""

    events: Sequence[Event]
    """Those of one that was traced."""
    solved: Mapping[int, int]
    """By the position of an event whose size depends on the length: which of the factors give it."""
    factors: Sequence[Factors]

    def at(self, features: Features) -> Iterator[Event]:
        """The events of a micro-batch with these features."""
        sizes = [int(sum(map(mul, factors, features))) for factors in self.factors]
        solved = self.solved
        for position, event in enumerate(self.events):
            found = solved.get(position)
            yield event if found is None else event._replace(size=sizes[found])


def template(stretches: Sequence[Stretch], features: Callable[[int], Features]) -> Template:
    """
    What holds for all stretches of one role.

    A size is solved for with fewer features than there are lengths, so that one length at least checks it.

    Args:
        stretches: traced ones.
        features: by the index of a micro-batch.

    Raises:
        NotAlike: they have other storages, or sizes that the features do not give.
    """
    first, *others = stretches
    for other in others:
        _check_alike(first, other)
    known = {features(stretch.micro_batch): stretch for stretch in stretches}
    rows, traced = list(known), list(known.values())
    solved: dict[int, int] = {}
    numbers: dict[tuple[int, ...], int] = {}
    factors: list[Factors] = []
    for position, event in enumerate(first.events):
        sizes = tuple(stretch.events[position].size for stretch in traced)
        if len(set(sizes)) == 1:
            continue
        if sizes not in numbers:
            solution = _solution(rows, sizes)
            if solution is None:
                raise NotAlike(f"{event.name[0]} takes {sizes} bytes, which no polynomial of the lengths gives")
            numbers[sizes] = len(factors)
            factors.append(solution)
        solved[position] = numbers[sizes]
    return Template(first.events, solved, factors)


def _check_alike(one: Stretch, other: Stretch) -> None:
    if len(one.events) == len(other.events):
        for left, right in zip(one.events, other.events, strict=True):
            if left[:4] != right[:4] or (left.size < 0) != (right.size < 0):
                break
        else:
            return
    raise NotAlike(f"micro-batches {one.micro_batch} and {other.micro_batch} do not make the same tensors")


def _solution(rows: Sequence[Features], sizes: Sequence[int]) -> Factors | None:
    """The factors of as few features as give these sizes; None if there are none."""
    width = len(rows[0])
    for count in range(2, min(width + 1, len(rows))):
        for chosen in itertools.combinations(range(1, width), count - 1):
            columns = (0, *chosen)
            inverse = _inverse([[Fraction(row[column]) for column in columns] for row in rows[-count:]])
            if inverse is None:
                continue
            factors = [Fraction(0)] * width
            for column, line in zip(columns, inverse, strict=True):
                factors[column] = Fraction(sum(map(mul, line, sizes[-count:])))
            if all(sum(map(mul, factors, row)) == size for row, size in zip(rows, sizes, strict=True)):
                return tuple(factors)
    return None


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]] | None:
    """By Gauss and Jordan; None for a matrix that has none."""
    size = len(matrix)
    rows = [[*line, *(Fraction(int(at == row)) for at in range(size))] for row, line in enumerate(matrix)]
    for column in range(size):
        pivot = next((row for row in range(column, size) if rows[row][column]), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for row in range(size):
            if row != column and rows[row][column]:
                factor = rows[row][column]
                rows[row] = [value - factor * other for value, other in zip(rows[row], rows[column], strict=True)]
    return [line[size:] for line in rows]
