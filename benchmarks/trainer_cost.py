"""
What a row costs more under transformers' Trainer: its wall time there over that of the bare step.

    python -m benchmarks.trainer_cost --model qwen-7b-chat --batch-size 1 --max-length 2048

Both run the same micro-batches and optimizer steps in this one process, in turn (A B B A ...), on models of their
own; the ratio of each pair is printed and its median is the answer. The two need the memory of both.
"""

from __future__ import annotations

import statistics

import torch

from benchmarks.setting import case_of, parser, save, workload_of
from pytest_llmbench.engine.loop import AnyTraining
from pytest_llmbench.engine.rounds import run_rounds, warm_up
from pytest_llmbench.engine.trainer_loop import build_trainer
from pytest_llmbench.engine.training import build_fine_tuning
from pytest_llmbench.worker.devices import Devices


def main() -> None:
    arguments = parser(
        __doc__, tuner="lora", batch_size=1, max_length=2048, accumulation_steps=16, pairs=6
    ).parse_args()
    case, workload = case_of(arguments), workload_of(arguments)
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
    save("trainer_cost", {"case": case, "ratios": ratios})


def seconds_of(training: AnyTraining, devices: Devices) -> float:
    """Wall time of the rounds as a measuring process takes it."""
    return sum(done.seconds for done in run_rounds(training, devices.synchronise).rounds)


if __name__ == "__main__":
    main()
