"""
Tensors of floats that have a shape and no content; indices, masks and positions keep their values.

torch's own fake tensors say what an operator returns. What they said once is kept by the shapes that they were
asked about, which makes a step several times as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

__all__ = ["Shapes", "is_shape"]

_DEVICE = torch.ops.prim.device.default
_NEVER_KEPT = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view))
_CHOOSING = frozenset(
    (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)
)
"""Operators whose result has a shape that hangs on values only if they are given a mask."""
_MASKS = (torch.bool, torch.uint8)
_SAYS_SOMETHING = frozenset(
    ("arange", "linspace", "logspace", "scalar_tensor", "lift_fresh", "lift_fresh_copy", "eye", "randint", "randperm")
)
"""Operators whose result has content without a tensor that has, of whatever dtype it is."""


class Shapes(FakeTensorMode):
    """
    torch's mode of fake tensors, in which what is known stays known.

    Args:
        implied: what an operator of a library returns whose shapes hang on values, by its name and arguments; None for
            any other.

    Attributes:
        keeps_content: whether integers and booleans that come without a tensor have content.

    An operator whose tensors all have content runs as ever. Where there is no tensor yet, integers and booleans get
    content, and so do floats that are a range or a single number.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would make each operator several times as slow

    def __init__(self, implied: Callable[[str, Any], Any] = lambda _name, _args: None) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.keeps_content = True
        self._implied = implied
        self.observe: Callable[[Any, Any, Any], None] | None = None
        """Called with each operator, its arguments and what it returned."""
        self._answers: dict[Any, _Answer] = {}
        self._never_kept: dict[Any, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is _DEVICE:
            return args[0].fake_device  # asked for in every operator
        observe, self.observe = self.observe, None  # what is computed by other operators is one operator all the same
        try:
            result = self._result(func, types, args, kwargs or {})
        finally:
            self.observe = observe
        if observe is not None:
            observe(func, args, result)
        return result

    def _result(self, func: Any, types: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        seen = _Seen()
        key = seen.key(func, args, kwargs)
        if not seen.shapes and (seen.real or (self.keeps_content and _has_content(func, args, kwargs))):
            return func(*args, **kwargs)
        answer = self._answers.get(key) if key is not None else None
        if answer is not None:
            return answer.again(args)
        result = None
        if isinstance(func, OpOverload) and func.namespace != "aten":
            with self:
                result = self._implied(func._schema.name, args)
        if result is None:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        if key is not None and not self._is_never_kept(func, args):
            kept = _kept(result, args, kwargs)
            if kept is not None:
                self._answers[key] = kept
        return result

    def _is_never_kept(self, func: Any, args: Any) -> bool:
        if func in _CHOOSING:
            return any(index is not None and index.dtype in _MASKS for index in args[1])
        found = self._never_kept.get(func)
        if found is None:
            tags = getattr(func, "tags", None)
            found = self._never_kept[func] = tags is None or not _NEVER_KEPT.isdisjoint(tags)
        return found


def is_shape(tensor: object) -> bool:
    """Whether it is a tensor without content."""
    return isinstance(tensor, FakeTensor)


def _has_content(func: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator that is given no tensor returns one with content."""
    name = func._schema.name.removeprefix("aten::")
    if name in _SAYS_SOMETHING:
        return True
    dtype = kwargs.get("dtype")
    if dtype is None:
        return name == "full" and isinstance(args[1], int)
    return not (dtype.is_floating_point or dtype.is_complex)


class _Seen:
    """What the arguments of an operator are, by what its answer depends on."""

    __slots__ = ("real", "shapes")

    def __init__(self) -> None:
        self.real = self.shapes = 0

    def key(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Hashable; None if an argument is not."""
        try:
            parts = [func]
            self._add(parts, args)
            for name, value in kwargs.items():
                parts.append(name)
                self._add(parts, (value,))
            key = tuple(parts)
            hash(key)
        except TypeError:
            return None
        return key

    def _add(self, parts: list[Any], values: Sequence[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                if type(value) is FakeTensor or isinstance(value, FakeTensor):
                    self.shapes += 1
                    parts.append(value.fake_device.type)  # a model is made without memory first
                else:
                    self.real += 1
                    parts.append("real")
                parts.append(value.shape)
                parts.append(value.stride())
                parts.append(value.dtype)
                parts.append(value.storage_offset())
            elif isinstance(value, (tuple, list)):
                parts.append(len(value))
                self._add(parts, value)
            else:
                parts.append(type(value))  # 1, 1.0 and True are equal, and not the same
                parts.append(value)


class _Made(NamedTuple):
    """A tensor that an operator returned."""

    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    base: tuple[int, ...] | None
    """Where among the arguments the tensor is whose storage it shares; None for a storage of its own."""
    is_base: bool
    """Whether it is that tensor itself."""
    state: dict[str, Any]


class _Answer(NamedTuple):
    """What an operator returned, to be returned again."""

    made: Sequence[Any]
    is_one: bool

    def again(self, args: Any) -> Any:
        results = [_make(one, args) if isinstance(one, _Made) else one for one in self.made]
        return results[0] if self.is_one else tuple(results)


def _make(made: _Made, args: Any) -> Any:
    base = None
    if made.base is not None:
        base = args
        for index in made.base:
            base = base[index]
        if made.is_base:
            return base
    elem = torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device="meta")
    if base is not None:
        elem.set_(base.untyped_storage(), made.offset, made.shape, made.stride)
    self = Tensor._make_subclass(FakeTensor, elem, False, dispatch_device=True, device_for_backend_keys=_CPU)
    self.__dict__.update(made.state)
    return self


_CPU = torch.device("cpu")


def _kept(result: Any, args: Any, kwargs: Mapping[str, Any]) -> _Answer | None:
    """None for what cannot be made again from the arguments."""
    is_one = not isinstance(result, (tuple, list))
    storages = dict(_storages(args, ()))
    outside = {storage for storage, _ in _storages(tuple(kwargs.values()), ())}
    made: list[Any] = []
    for one in (result,) if is_one else result:
        if one is None or (isinstance(one, (int, float, bool)) and not isinstance(one, Tensor)):
            made.append(one)
            continue
        if type(one) is not FakeTensor:
            if not isinstance(one, Tensor):
                return None
            position = next((at for at, tensor in _tensors(args, ()) if tensor is one), None)
            if position is None:
                return None
            made.append(_Made(one.shape, (), 0, one.dtype, position, True, {}))
            continue
        storage = one.untyped_storage()._cdata
        if (
            storage in outside
            or one.is_conj()
            or one.is_neg()
            or one.layout != torch.strided
            or one.constant is not None
        ):
            return None
        position = next((at for at, tensor in _tensors(args, ()) if tensor is one), None)
        if position is not None:
            made.append(_Made(one.shape, (), 0, one.dtype, position, True, {}))
            continue
        base = storages.get(storage)
        if base is not None and not isinstance(_at(args, base), FakeTensor):
            return None
        made.append(_Made(one.shape, one.stride(), one.storage_offset(), one.dtype, base, False, dict(one.__dict__)))
    return _Answer(made, is_one)


def _at(args: Any, position: tuple[int, ...]) -> Any:
    for index in position:
        args = args[index]
    return args


def _tensors(values: Any, prefix: tuple[int, ...]) -> Any:
    for index, value in enumerate(values):
        if isinstance(value, Tensor):
            yield (*prefix, index), value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value, (*prefix, index))


def _storages(values: Any, prefix: tuple[int, ...]) -> Any:
    for position, tensor in _tensors(values, prefix):
        yield tensor.untyped_storage()._cdata, position
