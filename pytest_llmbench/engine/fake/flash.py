"""
flash-attn and xformers without their kernels: operators of their names and shapes.

Shapes and workspaces are those of flash-attn 2.8 (`csrc/flash_attn/flash_api.cpp`, `flash_attn_interface.py`). That
operators of a few samples split the keys over multiprocessors is left out, which takes memory for short samples only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import modeling_flash_attention_utils as users

from pytest_llmbench.engine import memory_efficient as memory_efficient_attention

__all__ = ["VERSION", "installed", "workspace_bytes"]

VERSION = "2.8.3"
_ROWS = 128
"""Rows of queries that a block of the backward pass covers."""


def _forward(query: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, length, heads, _size = query.shape
    return _attended(query, (batch, heads, length))


def _varlen_forward(query: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens, heads, _size = query.shape
    return _attended(query, (heads, tokens))


def _attended(query: Tensor, of_rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, logarithm of the softmax's denominators, no probabilities, state of the random numbers."""
    denominators = query.new_empty(of_rows, dtype=torch.float32)
    return torch.empty_like(query), denominators, query.new_empty(0), query.new_empty(2, dtype=torch.int64)


def _backward(_: Tensor, query: Tensor, *__: Any) -> Tensor:
    batch, length, heads, _size = query.shape
    return query.new_empty((batch, heads, _rounded(length)), dtype=torch.float32)


def _varlen_backward(*arguments: Any) -> Tensor:
    query, starts = arguments[1], arguments[9]
    tokens, heads, _ = query.shape
    return query.new_empty((heads, tokens + _ROWS * (starts.numel() - 1)), dtype=torch.float32)


_FORWARD = "(Tensor q, Tensor k, Tensor v, float dropout_p, float softmax_scale, bool causal) -> (Tensor, Tensor, Tensor, Tensor)"
_BACKWARD = (
    "(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor softmax_lse, Tensor(a!) dq, Tensor(b!) dk, "
    "Tensor(c!) dv, Tensor rng_state) -> Tensor"
)
_PACKED = _FORWARD.replace(
    "float dropout_p", "Tensor starts, Tensor key_starts, int longest, int longest_key, float dropout_p"
)
_PACKED_BACKWARD = _BACKWARD.replace("Tensor rng_state", "Tensor starts, Tensor key_starts, Tensor rng_state")
_OPERATORS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "flash_attn::_flash_attn_forward": (_FORWARD, _forward),
    "flash_attn::_flash_attn_backward": (_BACKWARD, _backward),
    "flash_attn::_flash_attn_varlen_forward": (_PACKED, _varlen_forward),
    "flash_attn::_flash_attn_varlen_backward": (_PACKED_BACKWARD, _varlen_backward),
    "xformers_flash::flash_fwd": (_FORWARD, _forward),
    "xformers_flash::flash_bwd": (_BACKWARD, _backward),
}
"""Signature and shapes by name; xformers hands what it is given to the kernels of flash-attn."""
_libraries = {space: torch.library.Library(space, "FRAGMENT") for space in ("flash_attn", "xformers_flash")}


def _defined(name: str) -> Any:
    space, _, operator = name.partition("::")
    if not hasattr(getattr(torch.ops, space), operator):
        signature, shapes = _OPERATORS[name]
        _libraries[space].define(f"{operator}{signature}")
        _libraries[space].impl(operator, shapes, "Meta")
    return getattr(getattr(torch.ops, space), operator)


def workspace_bytes(operator: str, arguments: Sequence[Any]) -> list[int]:
    """What a kernel allocates for itself and gives back before it ends."""
    if operator not in _OPERATORS or not operator.endswith(("backward", "bwd")):
        return []
    query, key = arguments[1], arguments[2]
    if query.ndim == 4:
        rows = query.shape[0] * _rounded(query.shape[1])
    else:
        rows = query.shape[0] + _ROWS * (arguments[9].numel() - 1)
    heads, size = query.shape[-2:]
    found = [4 * rows * heads * _rounded(size, 32 if size <= 128 else 64)]
    if key.shape[-2] != heads:  # gradients of each head, before those of a group are summed up
        found += 2 * [key.element_size() * key.numel() // key.shape[-2] * heads]
    return found


def _rounded(count: int, to: int = _ROWS) -> int:
    return -(-count // to) * to


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - as autograd calls it
        ctx: Any, names: tuple[str, str], query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float,
        causal: bool,
    ) -> Tensor:  # fmt: skip
        out, denominators, _, random = _defined(names[0])(query, key, value, dropout, scale, causal)
        ctx.backward_name = names[1]
        ctx.save_for_backward(query, key, value, out, denominators, random)
        attended: Tensor = out
        return attended

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, out, denominators, random = ctx.saved_tensors
        grads = [torch.empty_like(one) for one in (query, key, value)]
        _defined(ctx.backward_name)(grad, query, key, value, out, denominators, *grads, random)
        return None, *grads, None, None, None


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, starts: tuple[Tensor, Tensor], most: tuple[int, int],
        dropout: float, scale: float, causal: bool,
    ) -> Tensor:  # fmt: skip
        packed = _defined("flash_attn::_flash_attn_varlen_forward")
        out, denominators, _, random = packed(query, key, value, *starts, *most, dropout, scale, causal)
        ctx.save_for_backward(query, key, value, out, denominators, random, *starts)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, out, denominators, random, *starts = ctx.saved_tensors
        grads = [torch.empty_like(one) for one in (query, key, value)]
        _defined("flash_attn::_flash_attn_varlen_backward")(
            grad, query, key, value, out, denominators, *grads, *starts, random
        )
        return *grads, None, None, None, None, None


def flash_attn_func(  # noqa: PLR0913, PLR0917 - as flash-attn has it
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
) -> Tensor:
    """Attention over samples of one length, all [batch, length, heads, size]."""
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    names = ("flash_attn::_flash_attn_forward", "flash_attn::_flash_attn_backward")
    attended: Tensor = _Attention.apply(names, q, k, v, dropout_p, scale, causal)
    return attended


def flash_attn_varlen_func(  # noqa: PLR0913, PLR0917
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
) -> Tensor:
    """Attention over packed samples, all [tokens, heads, size]."""
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    starts, most = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    attended: Tensor = _PackedAttention.apply(q, k, v, starts, most, dropout_p, scale, causal)
    return attended


def memory_efficient(query: Tensor, key: Tensor, value: Tensor, *, p: float, scale: float | None) -> Tensor:
    """In the place of xformers' attention, causal; all [batch, length, heads, size]."""
    names = ("xformers_flash::flash_fwd", "xformers_flash::flash_bwd")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    attended: Tensor = _Attention.apply(names, query, key, value, p, factor, True)
    return attended


class _Rows(torch.autograd.Function):
    """The rows of these numbers, by a gather that has a scatter for its backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, numbers: Tensor) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.count = rows.shape[0]
        flat = rows.flatten(1)
        chosen = torch.gather(flat, 0, numbers[:, None].expand(-1, flat.shape[1]))
        return chosen.reshape(-1, *rows.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (numbers,) = ctx.saved_tensors
        flat = grad.flatten(1)
        rows = flat.new_zeros((ctx.count, flat.shape[1]))
        rows.scatter_(0, numbers[:, None].expand(-1, flat.shape[1]), flat)
        return rows.reshape(ctx.count, *grad.shape[1:]), None


class _Placed(torch.autograd.Function):
    """Zeros, but for the rows of these numbers."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, numbers: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(numbers)
        placed = rows.new_zeros((count, *rows.shape[1:]))
        placed[numbers] = rows
        return placed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (numbers,) = ctx.saved_tensors
        return grad[numbers], None, None


def unpad_input(hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None) -> Any:
    """Tokens that the mask names, their numbers, where samples start, the longest, and their lengths."""
    mask = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = mask.sum(dim=-1, dtype=torch.int32)
    used = attention_mask.sum(dim=-1, dtype=torch.int32)
    numbers = torch.nonzero(mask.flatten(), as_tuple=False).flatten()
    starts = torch.nn.functional.pad(torch.cumsum(lengths, dim=0, dtype=torch.int32), (1, 0))
    return _Rows.apply(hidden_states.flatten(0, 1), numbers), numbers, starts, lengths.max().item(), used


def pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """[batch, length, ...] again, zeros where there was padding."""
    placed: Tensor = _Placed.apply(hidden_states, indices, batch * seqlen)
    return placed.view(batch, seqlen, *hidden_states.shape[1:])


def _module() -> ModuleType:
    package, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    package.__dict__.update(
        __version__=VERSION,
        __path__=[],
        bert_padding=padding,
        flash_attn_func=flash_attn_func,
        flash_attn_varlen_func=flash_attn_varlen_func,
        flash_attn_with_kvcache=_no_cache,
    )
    padding.__dict__.update(pad_input=pad_input, unpad_input=unpad_input)
    return package


def _no_cache(*_: Any, **__: Any) -> Tensor:
    raise NotImplementedError("training keeps no cache")


@contextmanager
def _imported(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """
    Modules that are there for the time being.

    What others import meanwhile stays, unlike under `mock.patch.dict`: who registers operators is imported once.
    """
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextmanager
def installed() -> Iterator[None]:
    """flash-attn is there for transformers, whether it is installed or not."""
    package = _module()
    matrix = getattr(users, "FLASH_ATTENTION_COMPATIBILITY_MATRIX", {})
    there = {"general_availability_check": lambda: True, "supported_devices": ((lambda: True, "cpu"),)}
    with (
        _imported({"flash_attn": package, "flash_attn.bert_padding": package.bert_padding}),
        mock.patch.object(users, "is_flash_attn_2_available", return_value=True),
        mock.patch.object(users, "_loaded_implementation", None, create=True),
        mock.patch.object(memory_efficient_attention, "_attend", memory_efficient),
        mock.patch.dict(matrix, {2: {**matrix.get(2, {}), **there}}),
    ):
        yield
