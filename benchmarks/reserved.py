"""
What torch would reserve on a GPU for a row, with one thing changed, computed without one.

    python -m benchmarks.reserved --what attention --what order --what card --what logits --jobs 2

The row trains at full size on tensors that have a shape and no content (torch's FakeTensorMode), and every storage
that comes and goes is told to `probes.reserving`, which reserves by the rules of torch's own. Takes about a minute
for 16 samples of a 7B model on one core. Each line has the reserved and allocated peak beside the published one:

    attention   the same samples by eager attention, which builds the matrix of probabilities, as does torch's math
                kernel and every library that did not get the attention which it was asked for
    math        scaled_dot_product_attention as torch 2.1 computed it without a fused kernel: matrices of scores and
                probabilities in bf16, where today's math kernel takes fp32
    order       samples drawn and shuffled as a plain sampler does, in place of the order that the rows use; and with the
                longest of them first, which takes least
    card        at most 78.8 GiB, all that a card of 80 GB has for torch: the allocator gives back what it keeps in store
    logits      a copy of the logits as fp32 that lives until the next forward pass, as of a Trainer that returns outputs
                under mixed precision
    nf4         bnb-nf4 rows as they are, and as bitsandbytes 0.41.3 trained them, in several orders

Flash attention is computed as the CPU's, which allocates the same but for workspaces. Rows of several GPUs are taken
as if one had the memory of all. bnb-nf4 is computed by `benchmarks.packed`; other quantized rows are not.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.packed import Packed4Bit, as_published
from benchmarks.setting import save
from pytest_llmbench.engine import quantization
from pytest_llmbench.engine.batches import Batch, make_batches
from pytest_llmbench.engine.lengths import PUBLISHED, admissible
from pytest_llmbench.engine.loop import Watch, run_steps
from pytest_llmbench.engine.models import architecture_of
from pytest_llmbench.engine.rounds import WARM_UP_MICRO_BATCHES
from pytest_llmbench.engine.training import SEED, FineTuning, build_fine_tuning
from pytest_llmbench.probes.reserving import Allocator, Block, OutOfMemory
from pytest_llmbench.schema.case import Attention, Case
from pytest_llmbench.schema.step import StepResult
from pytest_llmbench.schema.workload import Workload
from pytest_llmbench.store.baselines import BaselineStore
from pytest_llmbench.store.published import load_published
from pytest_llmbench.tables import TABLES

GIB = 2**30
CARD_GIB = 78.8
CPU = torch.device("cpu")
SHUFFLED_SAMPLES = 32
NUM_ORDERS = 7


class Change(msgspec.Struct, frozen=True):
    """What differs from how the row is measured."""

    attention: Attention | None = None
    shuffled: int | None = None
    """Seed of a plain shuffle of `SHUFFLED_SAMPLES`, instead of the order of the rows."""
    longest_first: bool = False
    """Of the shuffled samples."""
    limit_gib: float | None = None
    logits: bool = False
    math: bool = False
    old_bitsandbytes: bool = False

    def __str__(self) -> str:
        changed = {name: value for name, value in msgspec.structs.asdict(self).items() if value not in (None, False)}
        return ", ".join(name if value is True else f"{name}={value}" for name, value in changed.items()) or "as it is"


class Question(NamedTuple):
    table: str
    row: str
    change: Change


class Answer(msgspec.Struct, frozen=True):
    row: str
    change: Change
    published_gib: float | None
    """Summed over the GPUs, as are the others."""
    measured_gib: float | None
    reserved_gib: float
    allocated_gib: float
    reason: str | None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--what", choices=tuple(QUESTIONS), action="append", help="default: all of them")
    arguments.add_argument("--device", default="nvidia-h200", help="folder of the measured baselines")
    arguments.add_argument("--baselines", type=Path, default=Path("baselines"))
    arguments.add_argument("--jobs", type=int, default=1)
    given = arguments.parse_args()
    store, published = BaselineStore(given.baselines), load_published(given.baselines)
    questions = [question for what in given.what or QUESTIONS for question in QUESTIONS[what]()]
    answers = []
    with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
        for question, (reserved, allocated, reason) in zip(questions, pool.imap(answered, questions), strict=True):
            there = published[question.table].rows[question.row].memory_gib
            answers.append(
                Answer(
                    f"{question.table}[{question.row}]",
                    question.change,
                    sum(there) if there else None,
                    measured(store, given.device, question),
                    reserved / GIB,
                    allocated / GIB,
                    reason,
                )
            )
            print(told(answers[-1]), flush=True)
    save("reserved", answers)


def rows_of(table: str, names: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str]]:
    for name, numbers in names.items():
        yield from ((table, f"{name}-{number}") for number in numbers)


def _by_kernels(change: Change) -> Iterator[Question]:
    """The rows that another attention may explain, in their order and in a plain shuffle."""
    lora = {
        "chatglm3-6b": (4096, 8192),
        "yi-6b-chat": (4096, 8192),
        "openbuddy-zephyr-7b-chat": (2048, 4096, 8192),
    }
    rows = [*rows_of("lora_max_length", lora), ("flash_attention", "qwen-7b-chat-no-flash-no-checkpointing")]
    for table, row in rows:
        yield Question(table, row, change)
        yield Question(table, row, msgspec.structs.replace(change, shuffled=1))


def _attention() -> Iterator[Question]:
    yield from _by_kernels(Change(attention="eager"))


def _math() -> Iterator[Question]:
    yield from _by_kernels(Change(math=True))
    yield Question("lora_max_length", "yi-34b-chat-8192", Change(math=True))


def _order() -> Iterator[Question]:
    lora = {"qwen-1_8b-chat": (1024, 2048, 4096, 8192), "baichuan2-13b-chat": (2048,), "yi-6b-chat": (1024,)}
    rows = [
        *rows_of("lora_max_length", lora),
        *rows_of("full_max_length", {"qwen-1_8b-chat": (2048, 4096), "qwen-7b-chat": (8192,)}),
        ("batch_size", "qwen-7b-chat-batch-2"),
    ]
    for table, row in rows:
        yield Question(table, row, Change(shuffled=1, longest_first=True))
        for seed in range(1, NUM_ORDERS + 1):
            yield Question(table, row, Change(shuffled=seed))


def _card() -> Iterator[Question]:
    for table, row in (("batch_size", "qwen-7b-chat-batch-8"), ("full_max_length", "qwen-7b-chat-4096")):
        yield Question(table, row, Change(limit_gib=CARD_GIB))


def _logits() -> Iterator[Question]:
    for table, row in rows_of("lora_max_length", {"qwen-7b-chat": (2048, 8192), "yi-6b-chat": (8192,)}):
        yield Question(table, row, Change(logits=True))


def _nf4() -> Iterator[Question]:
    for model in ("qwen-7b-chat", "qwen-14b-chat", "qwen-72b-chat"):
        row = f"{model}-bnb-nf4"
        yield Question("quantization", row, Change())
        yield Question("quantization", row, Change(old_bitsandbytes=True))
        for seed in range(1, 4):
            yield Question("quantization", row, Change(old_bitsandbytes=True, shuffled=seed))


QUESTIONS: dict[str, Callable[[], Iterator[Question]]] = {
    "attention": _attention,
    "math": _math,
    "order": _order,
    "card": _card,
    "logits": _logits,
    "nf4": _nf4,
}


def answered(question: Question) -> tuple[int, int, str | None]:
    """Peak reserved and allocated bytes, and why it went no further."""
    torch.set_num_threads(1)
    (case,) = (one.case for one in TABLES[question.table].rows if one.id == question.row)
    limit = question.change.limit_gib
    allocator = Allocator(None if limit is None else int(limit * GIB))
    try:
        replay(traced(case, question.change), allocator)
    except OutOfMemory as error:
        return allocator.peak_reserved, allocator.peak_allocated, f"out of memory: {error}"
    return allocator.peak_reserved, allocator.peak_allocated, None


def replay(events: Iterable[tuple[int, int]], allocator: Allocator) -> None:
    blocks: dict[int, Block] = {}
    for number, count_bytes in events:
        if number > 0 and count_bytes:
            blocks[number] = allocator.take(count_bytes)
        elif -number in blocks:
            allocator.give_back(blocks.pop(-number))


class Storages(TorchDispatchMode):
    """
    Notes every storage that an operator gives back, and when it is gone.

    Attributes:
        events: (number, bytes) of each that comes, (-number, 0) of each that goes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        number = self._known[storage] = len(self.events) + 1
        self.events.append((number, storage.nbytes()))
        weakref.finalize(storage, self.events.append, (-number, 0))

    def __torch_dispatch__(
        self, operator: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        return result


def traced(case: Case, change: Change) -> list[tuple[int, int]]:
    """What comes and goes in the warm-up and the rounds, as a measuring process runs them; see `Storages.events`."""
    attention = change.attention or ("sdpa" if case.attention == "flash" else case.attention)
    case = msgspec.structs.replace(case, attention=attention, num_gpus=1)
    storages = Storages()
    # A fake parameter cannot be swapped for a moved one; all of them are where they belong already.
    stay = mock.patch.object(nn.Module, "to", lambda module, *_, **__: module)
    old_math = mock.patch.object(functional, "scaled_dot_product_attention", math_of_torch_2_1)
    packed = mock.patch.dict(quantization._BACKENDS, {"bnb-nf4": Packed4Bit})
    with FakeTensorMode(allow_non_fake_inputs=True), stay, packed, old_math if change.math else nullcontext():
        training = build_fine_tuning(case, Workload(device="cpu"), CPU)
        if change.old_bitsandbytes:
            as_published(training.model)
        batches = training.batches
        if change.shuffled is not None:
            batches = shuffled(case, change.shuffled, longest_first=change.longest_first)
        loop = KeepingLogits if change.logits else FineTuning
        stepped = loop(training.model, batches, case, training.total_optimizer_steps)
        for group in stepped.optimizer.param_groups:
            group["foreach"] = True  # as on a GPU
        for tensor in (*training.model.parameters(), *training.model.buffers()):
            storages.note(tensor)
        per_step = case.accumulation_steps
        steps = [range(start, start + per_step) for start in range(0, len(batches), per_step)]
        with storages:
            run_steps(stepped, [range(min(WARM_UP_MICRO_BATCHES, len(batches)))], Watch())
            run_steps(stepped, steps, Watch())
        return list(storages.events)


def math_of_torch_2_1(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """By `_scaled_dot_product_attention_math` of `aten/src/ATen/native/transformers/attention.cpp` in that version."""
    if enable_gqa:
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    root = math.sqrt(scale if scale is not None else query.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    scores = (query * root) @ (key.transpose(-2, -1) * root)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -math.inf)
        scores.add_(attn_mask)
    return functional.dropout(scores.softmax(-1), dropout_p) @ value


def shuffled(case: Case, seed: int, *, longest_first: bool) -> list[Batch]:
    """`SHUFFLED_SAMPLES` of the row, or so many as make whole steps, the longest among them, in a drawn order."""
    kept = admissible(PUBLISHED, case.max_length, "full")
    generator = random.Random(seed)
    per_step = case.batch_size * case.accumulation_steps
    count = math.ceil(SHUFFLED_SAMPLES / per_step) * per_step
    lengths = [kept[-1], *generator.sample(kept[:-1], count - 1)]
    if not longest_first:
        generator.shuffle(lengths)
    vocab_size = architecture_of(case.model, "full").vocab_size
    return make_batches(lengths, case.batch_size, vocab_size, CPU, seed=SEED)


class KeepingLogits(FineTuning):
    """Micro-steps that end with the outputs of the model still there, as fp32."""

    _logits: Tensor

    def micro_step(self, index: int) -> StepResult:
        batch = self.batches[index]
        output = self.model(**batch.inputs())
        self._logits = output.logits.float()
        (output.loss / self.accumulation_steps).backward()
        return StepResult(batch.samples, batch.tokens, output.loss.detach())


def measured(store: BaselineStore, device: str, question: Question) -> float | None:
    file = store.load(device, question.table)
    if file is None or question.row not in file.rows:
        return None
    reserved = file.rows[question.row].processes[-1].metrics.get("peak_reserved_bytes")
    return sum(reserved) / GIB if isinstance(reserved, tuple) else None


def told(answer: Answer) -> str:
    published, there = (
        "-" if value is None else f"{value:.2f}" for value in (answer.published_gib, answer.measured_gib)
    )
    return (
        f"{answer.row:>48} {answer.change!s:<28} published {published:>6} measured {there:>6} "
        f"reserved {answer.reserved_gib:6.2f} allocated {answer.allocated_gib:6.2f} {answer.reason or ''}"
    ).rstrip()


if __name__ == "__main__":
    main()
