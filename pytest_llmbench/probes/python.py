"""
What Python does in an optimizer step: calls and bytecode instructions by place, counted without noise.

Wall time cannot show that a library got a few percent slower in Python; these counts can, and say where.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import BuiltinMethodType, CodeType, FrameType, MethodDescriptorType
from typing import Any

from torch import Tensor

from pytest_llmbench.probes.places import Places
from pytest_llmbench.probes.recorder import NotCounted, Recorder

__all__ = ["Counts", "PythonRecorder"]

_TAKEN = frozenset(("tolist", "numpy", "cpu", "__array__"))
"""Methods by which the host takes a tensor; on the CPU no operator runs then."""
_OF_C = (MethodDescriptorType, BuiltinMethodType)
"""What a method of a tensor is when it is called, of a name or of an object."""


class Cell:
    """What one function did on behalf of one place."""

    __slots__ = ("calls", "code", "instructions", "name", "place", "reads")

    def __init__(self, code: CodeType, name: str, place: str) -> None:
        self.code = code
        self.name = name
        self.place = place
        self.calls = self.instructions = self.reads = 0

    def traced(self, _frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
        """Take part in `sys.settrace`."""
        self.instructions += event == "opcode"
        return self.traced


class Counts:
    """
    Counts of one stretch.

    Attributes:
        calls: all calls from Python code, of Python and of C functions; those of the loop are among them.
    """

    def __init__(self, places: Places, without: str | None) -> None:
        self.calls = 0
        self.cells: dict[tuple[int, str], Cell] = {}
        self._places = places
        self.without = without

    @property
    def instructions(self) -> int:
        """Bytecode instructions outside the loop."""
        return sum(cell.instructions for cell in self.cells.values())

    @property
    def reads(self) -> int:
        """Tensors of the CPU that the host took as values."""
        return sum(cell.reads for cell in self.cells.values())

    def cell(self, frame: FrameType) -> Cell | None:
        """The cell of a frame; None for the loop that drives the training."""
        code = frame.f_code
        own = self._places.at(frame)
        if own.owner == "loop" or code.co_filename == self.without:
            return None
        place = own.name
        if own.owner != "library":
            around = self._places.innermost(frame)
            place = around.name if around is not None and around.owner == "library" else own.name
        cell = self.cells.get((id(code), place))
        if cell is None:
            cell = self.cells[id(code), place] = Cell(code, own.name, place)
        return cell

    def called(self, caller: FrameType | None) -> None:
        """Note a call that *caller* makes."""
        self.calls += 1
        cell = self.cell(caller) if caller is not None else None
        if cell is not None:
            cell.calls += 1

    def took(self, caller: FrameType, of: Any) -> None:
        """Note a read, if this is a tensor of the CPU that *caller* takes."""
        if isinstance(of, Tensor) and of.device.type == "cpu":
            cell = self.cell(caller)
            if cell is not None:
                cell.reads += 1


class PythonRecorder(Recorder):
    """
    Counts what Python does in the micro-batches and in the optimizer step.

    Since Python 3.12 in all threads (`sys.monitoring`). Before, in the calling thread and in those that it
    starts meanwhile (`sys.settrace`), which misses what autograd calls back from its thread for a GPU.

    Args:
        all_threads: whether the other threads' work must be in the counts.
        without: a source file whose functions, and calls from them, are not counted.

    Raises:
        NotCounted: it must and cannot, or another tool counts or traces already.
    """

    def __init__(self, *, all_threads: bool, without: str | None = None) -> None:
        if all_threads and sys.version_info < (3, 12):
            raise NotCounted("calls of autograd's threads can be counted since Python 3.12 only")
        if sys.getprofile() is not None or (sys.version_info < (3, 12) and sys.gettrace() is not None):
            raise NotCounted("another profiler runs in this process")
        places = Places()
        self.micro_batches = Counts(places, without)
        self.optimizer_step = Counts(places, without)
        self._stop: Callable[[], None] | None = None

    def begin(self) -> None:
        self._stop = _counting(self.micro_batches)

    def boundary(self) -> None:
        self._end()
        self._stop = _counting(self.optimizer_step)

    def end(self) -> None:
        self._end()

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()


if sys.version_info >= (3, 12):

    def _counting(counts: Counts) -> Callable[[], None]:
        """
        Start to count; what is returned stops it.

        Calls and instructions are counted by code, which is fast, and shared out among the places from which the code
        was entered, by how often it was: exact for a library's function, and for torch's in sum. Instructions are
        events of the code that is counted alone: everywhere they would slow down what counts them.

        Raises:
            NotCounted: a profiler is registered already.
        """
        monitoring = sys.monitoring
        tool, events = monitoring.PROFILER_ID, monitoring.events
        instructions: dict[int, int] = defaultdict(int)
        calls: dict[int, int] = defaultdict(int)
        entered: dict[int, dict[Cell, int]] = {}
        codes: list[CodeType] = []
        without = counts.without

        def enter(code: CodeType, *_: object) -> None:
            cell = counts.cell(sys._getframe(1))
            if cell is None:
                return
            cells = entered.get(id(code))
            if cells is None:
                cells = entered[id(code)] = {}
                codes.append(code)
                monitoring.set_local_events(tool, code, events.INSTRUCTION)
            cells[cell] = cells.get(cell, 0) + 1

        def instruction(code: CodeType, _offset: int) -> None:
            instructions[id(code)] += 1

        def called(code: CodeType, _offset: int, function: object, first: object) -> None:
            if code.co_filename == without:
                return
            counts.calls += 1
            calls[id(code)] += 1
            if function.__class__ in _OF_C and getattr(function, "__name__", "") in _TAKEN:
                counts.took(sys._getframe(1), getattr(function, "__self__", first))

        try:
            monitoring.use_tool_id(tool, "llmbench")
        except ValueError:
            raise NotCounted("another profiler runs in this process") from None
        callbacks: dict[int, Callable[..., object]] = {
            events.PY_START: enter,
            events.PY_RESUME: enter,
            events.PY_THROW: enter,
            events.CALL: called,
        }
        for event, callback in (*callbacks.items(), (events.INSTRUCTION, instruction)):
            monitoring.register_callback(tool, event, callback)
        monitoring.set_events(tool, sum(callbacks))

        def stop() -> None:
            monitoring.set_events(tool, events.NO_EVENTS)
            for code in codes:
                monitoring.set_local_events(tool, code, events.NO_EVENTS)
            for event in (*callbacks, events.INSTRUCTION):
                monitoring.register_callback(tool, event, None)
            monitoring.free_tool_id(tool)
            for number, cells in entered.items():
                made, ran = _shares(calls[number], cells), _shares(instructions[number], cells)
                for cell, more_calls, more_instructions in zip(cells, made, ran, strict=True):
                    cell.calls += more_calls
                    cell.instructions += more_instructions

        return stop

    def _shares(count: int, cells: Mapping[Cell, int]) -> list[int]:
        """A count in proportion to the weights of cells; none is lost."""
        weights, left, shares = sum(cells.values()), count, []
        for weight in cells.values():
            shares.append(min(left, -(-count * weight // weights)))
            left -= shares[-1]
        return shares

else:

    def _counting(counts: Counts) -> Callable[[], None]:
        """Start to count; what is returned stops it."""
        without = counts.without

        def call(frame: FrameType, event: str, function: Any) -> None:
            if frame.f_code.co_filename == without:
                return
            if event == "c_call":
                counts.called(frame)
                if function.__name__ in _TAKEN:
                    counts.took(frame, getattr(function, "__self__", None))
            elif event == "call":
                counts.called(frame.f_back)

        def entered(frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any] | None:
            frame.f_trace_lines = False
            cell = counts.cell(frame)
            if cell is None:
                return None
            frame.f_trace_opcodes = True
            return cell.traced

        for module in (threading, sys):
            module.settrace(entered)
            module.setprofile(call)

        def stop() -> None:
            for module in (sys, threading):
                module.setprofile(None)
                module.settrace(None)

        return stop
