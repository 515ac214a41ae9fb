"""
Why the memory that torch reserves is not what the published page says: one row at a time, with one thing changed.

    python -m benchmarks.reserved --what attention
    python -m benchmarks.reserved --what order --what card --what loop

Each line trains one row in a forked process and prints the peak that torch reserved beside the published one:

    attention   the same samples, by another attention: eager builds the matrix of probabilities, as do torch's math
                kernel and every library that did not get the attention which it was asked for
    order       samples drawn and shuffled as a plain sampler does, in place of the order that the rows use
    card        at most 78.8 GiB, all that a card of 80 GB has for torch: the allocator gives back what it keeps in store
    loop        what the published Trainer did beside the bare step: forward under autocast, logits returned as
                fp32 and alive until the step is over; of nf4 also what its library left as fp16
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import random
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import torch
import transformers  # noqa: F401 - imported once, for all forked processes
from torch import Tensor

from benchmarks.setting import save
from pytest_llmbench.baselines.published import load_published
from pytest_llmbench.cases import Attention, Case, CaseError
from pytest_llmbench.engine.batches import Batch, make_batches
from pytest_llmbench.engine.lengths import PUBLISHED, admissible
from pytest_llmbench.engine.loop import Watch, run_steps
from pytest_llmbench.engine.models import architecture_of
from pytest_llmbench.engine.training import SEED, FineTuning, build_fine_tuning
from pytest_llmbench.step import StepResult
from pytest_llmbench.tables import TABLES
from pytest_llmbench.workload import Workload

if importlib.util.find_spec("bitsandbytes") is None:
    import peft  # noqa: F401 - as above; it imports bitsandbytes, which initialises CUDA, and that survives no fork

GIB = 2**30
CARD_GIB = 78.8


class Change(msgspec.Struct, frozen=True):
    """What differs from how the row is measured."""

    attention: Attention | None = None
    shuffled: int | None = None
    """Seed of a plain shuffle, instead of the order of the rows."""
    samples: int = 16
    limit_gib: float | None = None
    trainer: bool = False
    """Forward under autocast; logits come back as fp32 and stay until the next forward."""
    fp16_rest: bool = False
    """All that is not quantized is fp16."""

    def __str__(self) -> str:
        changed = {name: value for name, value in msgspec.structs.asdict(self).items() if value not in (None, False)}
        return ", ".join(name if value is True else f"{name}={value}" for name, value in changed.items())


class Tried(msgspec.Struct, frozen=True):
    row: str
    change: Change
    published_gib: float | None
    reserved_gib: float | None
    allocated_gib: float | None
    reason: str | None = None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--what", choices=tuple(EXPERIMENTS), action="append", help="default: all of them")
    arguments.add_argument("--baselines", type=Path, default=Path("baselines"))
    given = arguments.parse_args()
    published = load_published(given.baselines)
    tried = []
    for what in given.what or EXPERIMENTS:
        for table, row, change in EXPERIMENTS[what]():
            (case,) = (one.case for one in TABLES[table].rows if one.id == row)
            there = published[table].rows[row].memory_gib
            tried.append(in_a_process(f"{table}[{row}]", case, change, there[0] if there else None))
            print(told(tried[-1]), flush=True)
    save("reserved", tried)


def _attention() -> Iterator[tuple[str, str, Change]]:
    for model in ("chatglm3-6b", "yi-6b-chat", "openbuddy-zephyr-7b-chat"):
        for length in (2048, 4096, 8192):
            for attention in ("eager", "sdpa-math"):
                yield "lora_max_length", f"{model}-{length}", Change(attention=attention)


def _order() -> Iterator[tuple[str, str, Change]]:
    rows = [
        *(("lora_max_length", f"qwen-1_8b-chat-{length}") for length in (1024, 2048, 4096, 8192)),
        *(("full_max_length", f"qwen-1_8b-chat-{length}") for length in (2048, 4096)),
        ("batch_size", "qwen-7b-chat-batch-2"),
        ("lora_max_length", "baichuan2-13b-chat-2048"),
        ("lora_max_length", "yi-6b-chat-1024"),
    ]
    for table, row in rows:
        for seed in (1, 2):
            yield table, row, Change(shuffled=seed, samples=64)


def _card() -> Iterator[tuple[str, str, Change]]:
    yield "batch_size", "qwen-7b-chat-batch-8", Change(limit_gib=CARD_GIB, samples=32)
    yield "full_max_length", "qwen-7b-chat-4096", Change(limit_gib=CARD_GIB, samples=32)


def _loop() -> Iterator[tuple[str, str, Change]]:
    for row in ("qwen-7b-chat-int4-bnb", "qwen-14b-chat-int4-bnb", "qwen-72b-chat-int4-bnb"):
        yield "quantization", row, Change(trainer=True, fp16_rest=True)
        yield "quantization", row, Change(trainer=True, fp16_rest=True, shuffled=1)
    for row in ("qwen-7b-chat-2048", "yi-6b-chat-8192", "chatglm3-6b-8192", "openbuddy-zephyr-7b-chat-8192"):
        yield "lora_max_length", row, Change(trainer=True)


EXPERIMENTS: dict[str, Callable[[], Iterator[tuple[str, str, Change]]]] = {
    "attention": _attention,
    "order": _order,
    "card": _card,
    "loop": _loop,
}


def in_a_process(row: str, case: Case, change: Change, published_gib: float | None) -> Tried:
    """A fork of this process, in which CUDA is not in use yet."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_answer, args=(theirs, case, change))
    child.start()
    theirs.close()
    try:
        reserved, allocated, reason = ours.recv()
    except EOFError:
        reserved, allocated, reason = None, None, "the process ended without an answer"
    child.join()
    return Tried(row, change, published_gib, reserved, allocated, reason)


def _answer(theirs: Connection, case: Case, change: Change) -> None:
    reason = None
    try:
        train(case, change)
    except torch.cuda.OutOfMemoryError:
        reason = "out of memory"
    except (CaseError, ImportError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    theirs.send((torch.cuda.max_memory_reserved() / GIB, torch.cuda.max_memory_allocated() / GIB, reason))


def train(case: Case, change: Change) -> None:
    """All samples once, in whole optimizer steps."""
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    if change.limit_gib is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(change.limit_gib * GIB / total)
    if change.attention is not None:
        case = msgspec.structs.replace(case, attention=change.attention)
    training = build_fine_tuning(case, Workload(samples=change.samples), device)
    if change.fp16_rest:
        for parameter in training.model.parameters():
            if parameter.is_floating_point() and not parameter.requires_grad:
                parameter.data = parameter.data.half()
    batches = training.batches if change.shuffled is None else shuffled(case, change.samples, change.shuffled, device)
    loop = PublishedLoop if change.trainer else FineTuning
    per_step = case.accumulation_steps
    steps = [range(start, start + per_step) for start in range(0, len(batches), per_step)]
    run_steps(loop(training.model, batches, case, training.total_optimizer_steps), steps, Watch())
    torch.cuda.synchronize()


def shuffled(case: Case, count: int, seed: int, device: torch.device) -> list[Batch]:
    """So many samples of the row, the longest among them, in an order drawn by *seed*."""
    kept = admissible(PUBLISHED, case.max_length, "full")
    generator = random.Random(seed)
    per_step = case.batch_size * case.accumulation_steps
    count = math.ceil(count / per_step) * per_step
    lengths = [kept[-1], *generator.sample(kept[:-1], count - 1)]
    generator.shuffle(lengths)
    vocab_size = architecture_of(case.model, "full").vocab_size
    return make_batches(lengths, case.batch_size, vocab_size, device, seed=SEED)


class PublishedLoop(FineTuning):
    """Micro-steps as accelerate 0.25 and the published Trainer ran them."""

    _logits: Tensor
    """Alive until those of the next micro-batch are there, as an output that is returned."""

    def micro_step(self, index: int) -> StepResult:
        batch = self.batches[index]
        with torch.autocast("cuda", torch.bfloat16):
            output = self.model(**batch.inputs())
        self._logits = output.logits.float()
        (output.loss / self.accumulation_steps).backward()
        return StepResult(batch.samples, batch.tokens, output.loss.detach())


def told(tried: Tried) -> str:
    published, reserved, allocated = (
        "-" if value is None else f"{value:.2f}"
        for value in (tried.published_gib, tried.reserved_gib, tried.allocated_gib)
    )
    apart = (
        f"{tried.reserved_gib / tried.published_gib - 1:+.1%}"
        if tried.reserved_gib and tried.published_gib and tried.reason is None
        else tried.reason or ""
    )
    return f"{tried.row:>48} {tried.change!s:<40} published {published:>6} reserved {reserved:>6} ({apart}) allocated {allocated}"


if __name__ == "__main__":
    main()
