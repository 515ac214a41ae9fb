"""
What a row costs more under transformers' Trainer: its wall time there over that of the bare step.

    python benchmarks/trainer_cost.py --model qwen-7b-chat --batch-size 1 --max-length 2048

Both run the same micro-batches and optimizer steps in this one process, in turn (A B B A ...), on models of their
own; the ratio of each pair is printed and its median is the answer. The two need the memory of both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import torch

from pytest_llmbench.cases import Case
from pytest_llmbench.engine.loop import AnyTraining
from pytest_llmbench.engine.rounds import run_rounds, warm_up
from pytest_llmbench.engine.trainer_loop import build_trainer
from pytest_llmbench.engine.training import build_fine_tuning
from pytest_llmbench.worker.devices import Devices
from pytest_llmbench.workload import Workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen-7b-chat")
    parser.add_argument("--tuner", choices=("lora", "full"), default="lora")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--accumulation", type=int, default=16)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    case = Case(
        model=arguments.model,
        tuner=arguments.tuner,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        accumulation_steps=arguments.accumulation,
        attention=arguments.attention,
    )
    workload = Workload(
        device=arguments.device,
        scale="full" if arguments.device == "cuda" else "smoke",
        samples=arguments.samples,
    )
    if arguments.device == "cpu":
        torch.set_num_threads(1)  # as in a measuring process
    devices = Devices(arguments.device, 1)
    bare, trainer = build_fine_tuning(case, workload, devices.first), build_trainer(case, workload, devices.first)
    for training in (bare, trainer):
        warm_up(training, devices.synchronise)
        seconds_of(training, devices)
    ratios = []
    for pair in range(arguments.pairs):
        order = ("trainer", "bare") if pair % 2 == 0 else ("bare", "trainer")
        seconds = {name: seconds_of(trainer if name == "trainer" else bare, devices) for name in order}
        ratios.append(seconds["trainer"] / seconds["bare"])
        told = ", ".join(f"{name} {seconds[name]:.4f} s" for name in ("trainer", "bare"))
        print(f"pair {pair}: {told}, ratio {ratios[-1]:.4f}")
    print(f"median ratio trainer / bare: {statistics.median(ratios):.4f}")
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "trainer_cost.json").write_text(json.dumps({"case": repr(case), "ratios": ratios}))


def seconds_of(training: AnyTraining, devices: Devices) -> float:
    """Wall time of the rounds as a measuring process takes it."""
    return sum(done.seconds for done in run_rounds(training, devices.synchronise).rounds)


if __name__ == "__main__":
    main()
