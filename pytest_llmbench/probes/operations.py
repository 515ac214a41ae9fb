"""
What tensors do in an optimizer step: operators by name and place, bytes, flops, reads of the host, live memory.

Seen where torch dispatches an operator, on real tensors and on fake ones, in a pass of its own. What is below that is
not seen: scratch memory of a kernel, a kernel that a library launches by itself.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import _engine_run_backward
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_llmbench.probes.flops import Formula, flops_of
from pytest_llmbench.probes.places import Places
from pytest_llmbench.probes.recorder import Recorder
from pytest_llmbench.schema.measurement import AllocationShare

__all__ = [
    "BEFORE",
    "LISTED",
    "REST",
    "Asked",
    "Done",
    "Memory",
    "OperationRecorder",
    "Peak",
    "Positions",
    "Prices",
    "Work",
    "shares",
]

LISTED = 12
BEFORE, REST = "before the step", "other"

_BACKWARD = _engine_run_backward.__code__
_current_node = torch._C._current_autograd_node
_next_node = torch.autograd._get_sequence_nr
_PLAIN = torch._C._disabled_torch_dispatch_impl

_DEVICE = torch.ops.prim.device.default
_EMPTY = frozenset(("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"))
"""Operators that give memory and write nothing."""
_CHOOSING = frozenset(("embedding", "index", "index_select", "gather"))
"""Operators that read as much as they write, however much they choose from."""
_READ = frozenset(
    (
        "_local_scalar_dense",
        "equal",
        "is_nonzero",
        "masked_select",
        "nonzero",
        "unique_consecutive",
        "unique_dim",
        "_unique2",
    )
)
"""Operators whose result the host has to know, as a value or as the size of what comes out."""
_MASKED = frozenset(("index", "index_put", "index_put_", "_index_put_impl_"))
"""Operators that look for what is true in a mask, if they are given one."""

Positions = dict[torch.device, int]
"""How many events of memory there were, by device."""


class Asked(NamedTuple):
    """Who asked for an operator."""

    operator: str
    place: str

    def __str__(self) -> str:
        return f"{self.operator} in {self.place}" if self.place else self.operator


class Done:
    """How often an operator ran at one place, and what it cost there."""

    __slots__ = ("count", "flops", "moved_bytes", "reads", "recomputed_flops")

    def __init__(self) -> None:
        self.count = self.moved_bytes = self.flops = self.recomputed_flops = self.reads = 0


class Work(NamedTuple):
    """What one operator does."""

    moved_bytes: int
    flops: int


class _Kind(NamedTuple):
    """What is known of an operator once and for all."""

    name: str
    is_view: bool
    moves: Callable[[Any, Any, Any], int] | None
    """None for an operator that moves nothing."""
    reads: Callable[[Any, Any], int] | None
    flops: Formula | None


class OperationRecorder(Recorder):
    """
    Counts operators of the micro-batches and of the optimizer step, and follows the memory of a device's tensors.

    Args:
        optimizer: what it keeps is named where memory is listed; None for one that is not known.

    Attributes:
        micro_batches, optimizer_step: what was done, by who asked.
        memory: the tensors that came and went since the recorder was entered.
    """

    def __init__(self, device: torch.device, optimizer: object = None) -> None:
        self._optimizer = optimizer
        self._begun = 0
        """The number of the first node of a graph that is made since the recorder was entered."""
        self.memory = Memory(device.type)
        self.micro_batches: dict[Asked, Done] = {}
        self.optimizer_step: dict[Asked, Done] = {}
        self._counts: dict[Asked, Done] | None = None
        self._kinds: dict[int, _Kind] = {}
        self._places = Places()
        self._forward: dict[int, str] = {}
        self._mode = _Operators(self._ran)

    @property
    def parts(self) -> tuple[Mapping[Asked, Done], Mapping[Asked, Done]]:
        """Micro-batches, optimizer step."""
        return self.micro_batches, self.optimizer_step

    def __enter__(self) -> Self:
        self.memory.begin(self._optimizer)
        self._begun = _next_node()
        self._mode.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._mode.__exit__(None, None, None)

    def begin(self) -> None:
        self._counts = self.micro_batches

    def boundary(self) -> None:
        if self._counts is not None:
            self._counts = self.optimizer_step

    def end(self) -> None:
        self._counts = None

    def graph_left(self) -> Asked | None:
        """
        The end of the graph that was made last and is alive, and the place of its forward operator; None without one.

        Between steps there is none, unless somebody holds a tensor that has it, and with it all that it saved.
        """
        made = (node for tensor in _plain_tensors() if (node := tensor.grad_fn) is not None)
        nodes = [node for node in made if node._sequence_nr() >= self._begun]
        if not nodes:
            return None
        last = max(nodes, key=lambda node: node._sequence_nr())
        return Asked(f"graph up to {last.name()}", self._forward.get(last._sequence_nr(), ""))

    def _ran(self, operator: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        kind = self._kinds.get(id(operator))  # operators are never freed, and their own hash takes longer
        if kind is None:
            kind = self._kinds[id(operator)] = _kind(operator)
        node = _current_node()
        if kind.is_view and self._counts is None:
            if node is None:
                self._note_forward(sys._getframe(1))
            return
        asked = Asked(kind.name, self._place(node, sys._getframe(1)))
        if not kind.is_view:
            self.memory.given(asked, result)
        if self._counts is not None:
            self._count(kind, asked, args, kwargs, result, again=node is not None and torch.is_grad_enabled())

    def _count(
        self, kind: _Kind, asked: Asked, args: Any, kwargs: Mapping[str, Any], result: Any, *, again: bool
    ) -> None:
        """
        Add what an operator did.

        Args:
            again: whether it is part of a forward pass within a backward pass.
        """
        assert self._counts is not None
        done = self._counts.get(asked)
        if done is None:
            done = self._counts[asked] = Done()
        done.count += 1
        if kind.moves is not None:
            done.moved_bytes += kind.moves(args, kwargs, result)
        if kind.reads is not None:
            done.reads += kind.reads(args, result)
        if kind.flops is not None:
            flops = kind.flops(*args, **kwargs, out_val=result)
            done.flops += flops
            done.recomputed_flops += flops if again else 0

    def _place(self, node: Any, frame: Any) -> str:
        """Where the operator was asked for; in a backward pass where the forward operator was, whose node runs."""
        if node is None:
            return self._note_forward(frame)
        found = self._places.innermost(frame, _BACKWARD)
        if found is not None and found.owner == "library":
            return found.name
        return self._forward.get(node._sequence_nr(), "") or str(node.name())

    def _note_forward(self, frame: Any) -> str:
        """
        The place of a forward operator, kept for the node that it makes.

        A node is numbered before the operators below it run, so that the first of them tells its place.
        """
        found = self._places.innermost(frame)
        place = found.name if found else ""
        self._forward.setdefault(_next_node() - 1, place)
        return place


def _is_plain(kind: type[Tensor]) -> bool:
    """Whether tensors of this kind are made of no others."""
    return kind.__torch_dispatch__ is _PLAIN or kind is FakeTensor


class _Operators(TorchDispatchMode):
    """Tells of every operator after it ran."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would make each operator ten times as slow, and import the compiler

    def __init__(self, ran: Callable[[Any, Any, Mapping[str, Any], Any], None]) -> None:
        super().__init__()
        self._ran = ran

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE:
            return args[0].fake_device  # a question of tensors without content, and no work
        for kind in types:
            if not _is_plain(kind):
                return NotImplemented  # the tensor says what it is made of, and comes here again
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._ran(func, args, kwargs, result)
        return result


class Prices:
    """What operators do, by their arguments."""

    def __init__(self) -> None:
        self._kinds: dict[int, _Kind] = {}

    def work(self, operator: Any, args: Any, result: Any) -> Work:
        """What an operator did that was given these arguments, and returned this."""
        kind = self._kinds.get(id(operator))
        if kind is None:
            kind = self._kinds[id(operator)] = _kind(operator)
        moved = kind.moves(args, {}, result) if kind.moves else 0
        return Work(moved, kind.flops(*args, out_val=result) if kind.flops else 0)


def _kind(operator: Any) -> _Kind:
    space, name = operator._schema.name.split("::")
    is_aten = space == "aten"
    moves: Callable[[Any, Any, Any], int] | None = _moved
    if operator.is_view or (is_aten and name in _EMPTY):
        moves = None
    elif is_aten and name in _CHOOSING:
        moves = _as_much_as_it_writes
    reads: Callable[[Any, Any], int] | None = None
    if is_aten and name in _READ:
        reads = _one_read
    elif is_aten and name in _MASKED:
        reads = _reads_of_masks
    elif is_aten and name in ("_to_copy", "copy_"):
        reads = _read_of_a_gpu
    return _Kind(f"{space}::{name}", operator.is_view, moves, reads, flops_of(operator))


def _moved(args: Any, kwargs: Mapping[str, Any], result: Any) -> int:
    total = _bytes(args) + _bytes(result)
    return total + _bytes(tuple(kwargs.values())) if kwargs else total


def _as_much_as_it_writes(_args: Any, _kwargs: Any, result: Any) -> int:
    return 2 * _bytes(result)


def _bytes(value: Any) -> int:
    """Bytes of all tensors; a dimension along which a tensor repeats itself counts once."""
    if isinstance(value, Tensor):
        if value.is_contiguous():
            return int(value.nbytes)
        count = value.element_size()
        for size, stride in zip(value.shape, value.stride(), strict=True):
            count *= size if stride or not size else 1
        return int(count)
    if not isinstance(value, (tuple, list)):
        return 0
    total = 0
    for one in value:
        total += _bytes(one)
    return total


def _one_read(*_: Any) -> int:
    return 1


def _reads_of_masks(args: Any, _: Any) -> int:
    return sum(1 for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8))


def _read_of_a_gpu(args: Any, result: Any) -> int:
    source = next((one for one in reversed(args) if isinstance(one, Tensor)), None)
    return int(source is not None and source.device.type == "cuda" and result.device.type == "cpu")


class Memory:
    """
    Follows the storages that operators give back, until each is gone.

    Attributes:
        events: bytes and who asked, of each that comes; negative bytes of each that goes. By device.
    """

    def __init__(self, device_type: str) -> None:
        self._type = device_type
        self._alive: dict[int, weakref.ref[Any]] = {}
        self.events: dict[torch.device, list[tuple[int, Asked]]] = {}

    def begin(self, optimizer: object) -> None:
        """Take what is there as given, by its name what the optimizer keeps."""
        for name, tensor in _kept(optimizer):
            self.given(Asked(f"{name} of the optimizer", ""), tensor)
        before = Asked(BEFORE, "")
        for tensor in _plain_tensors():
            self.given(before, tensor)

    def given(self, asked: Asked, result: Any) -> None:
        """Note the tensors that an operator returned."""
        if isinstance(result, Tensor):
            if result.device.type == self._type:
                self._note(asked, result)
        elif isinstance(result, (tuple, list)):
            for one in result:
                self.given(asked, one)

    def _note(self, asked: Asked, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        events = self.events.setdefault(tensor.device, [])

        def gone(_: Any) -> None:
            del self._alive[key]
            events.append((-size, asked))

        self._alive[key] = weakref.ref(storage, gone)
        events.append((size, asked))

    def position(self) -> Positions:
        """How many events there were so far, by device."""
        return {device: len(events) for device, events in self.events.items()}

    def settled(self) -> Positions:
        """The position after a collection of garbage: what only a cycle holds is gone."""
        gc.collect()
        return self.position()

    def live(self, device: torch.device, position: int) -> dict[Asked, int]:
        """Bytes that were alive after so many events, by who asked."""
        return _sums(self.events.get(device, [])[:position])

    def between(self, device: torch.device, first: int, second: int) -> dict[Asked, int]:
        """Bytes that came and stayed between two positions, by who asked; negative for what went."""
        return _sums(self.events.get(device, [])[first:second])

    def peak(self, device: torch.device, position: int) -> Peak:
        """The most bytes that were alive within so many events."""
        most, total = Peak(0, 0), 0
        for number, (size, _) in enumerate(self.events.get(device, [])[:position], 1):
            total += size
            if total > most.bytes:
                most = Peak(total, number)
        return most


class Peak(NamedTuple):
    """The most bytes, and after how many events they were reached."""

    bytes: int
    position: int


def _plain_tensors() -> Iterator[Tensor]:
    """All tensors that Python knows, but for those that are made of others."""
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and _is_plain(type(thing)):
            yield thing


def _kept(optimizer: object) -> Iterator[tuple[str, Tensor]]:
    """Tensors that an optimizer keeps of its parameters, by torch's convention, and their names."""
    states = getattr(optimizer, "state", None)
    for state in states.values() if isinstance(states, Mapping) else ():
        for name, value in state.items() if isinstance(state, Mapping) else ():
            if isinstance(value, Tensor) and _is_plain(type(value)):
                yield str(name), value


def _sums(events: Iterable[tuple[int, Asked]]) -> dict[Asked, int]:
    sizes: dict[Asked, int] = {}
    for size, asked in events:
        sizes[asked] = sizes.get(asked, 0) + size
    return {asked: size for asked, size in sizes.items() if size}


def shares(alive: Mapping[Asked, int]) -> tuple[AllocationShare, ...]:
    """By who asked, most bytes first; then those beyond `LISTED` as `REST`, then what was there `BEFORE`."""
    sizes = {str(asked): size for asked, size in alive.items() if asked.operator != BEFORE}
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    found = [AllocationShare(name, None, sizes[name]) for name in names[:LISTED]]
    if rest := names[LISTED:]:
        found.append(AllocationShare(REST, None, sum(sizes[name] for name in rest)))
    before = sum(size for asked, size in alive.items() if asked.operator == BEFORE)
    return (*found, AllocationShare(BEFORE, None, before)) if before else tuple(found)
