"""What the benchmarks that measure rows have in common: their arguments, the row of them, and where figures go."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.workload import Scale, Workload

__all__ = ["STEPPING", "case_of", "in_time", "parser", "save", "workload_of"]

STEPPING = ("warm-up", "rounds", "activity", "operators", "calls", "instructions")
"""Phases that run training steps; all else is fixed cost."""


def parser(describe: str | None, **defaults: str | int) -> argparse.ArgumentParser:
    """
    Model, attention, samples and device, as all have them, and a number for each other of the *defaults*.

    Args:
        defaults: by argument, with underscores; `model`, `attention` and `samples` have defaults of their own.
    """
    found = argparse.ArgumentParser(description=describe, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"model": "qwen-7b-chat", "attention": "sdpa", "samples": 16, **defaults}.items():
        found.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    found.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    return found


def workload_of(arguments: argparse.Namespace) -> Workload:
    """Miniatures on the CPU, the published size on a GPU."""
    scale: Scale = "full" if arguments.device == "cuda" else "smoke"
    return Workload(device=arguments.device, scale=scale, samples=arguments.samples)


def case_of(arguments: argparse.Namespace, **fields: object) -> Case:
    """The row of the arguments that are fields of a case, and of further *fields*."""
    given = {name: value for name, value in vars(arguments).items() if name in Case.__struct_fields__}
    return Case(**{**given, **fields})


def save(name: str, figures: object) -> None:
    """Write *figures* as JSON into the folder that the variable OUT names, if it is there."""
    if "OUT" in os.environ:
        Path(os.environ["OUT"], f"{name}.json").write_bytes(msgspec.json.encode(figures))


def in_time(turns: Iterable[int], seconds: float) -> Iterator[int]:
    """The *turns*, 0, 1, ..., that end within so many seconds if each takes as long as those before it on average."""
    started = time.monotonic()
    for turn in turns:
        if turn and (time.monotonic() - started) * (turn + 1) / turn > seconds:
            print(f"stopped after {turn} turns: the next would not end within {seconds} s")
            return
        yield turn
