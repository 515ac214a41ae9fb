"""What the benchmarks that measure rows have in common: their arguments, the row of them, and where figures go."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import msgspec

from pytest_llmbench.cases import Case
from pytest_llmbench.workload import Scale, Workload

__all__ = ["STEPPING", "case_of", "parser", "save", "workload_of"]

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
