"""
What the harness costs a measured step: our rounds against a bare loop over the very same step.

    python -m benchmarks.overhead --model qwen-7b-chat --batch-size 4 --max-length 2048

Both run in this one process, in turn (A B B A ...), on one set-up; the ratio of each pair is printed
and its median is the answer. On a device-bound row it has to stay within 0.5 %.
"""

from __future__ import annotations

import gc
import statistics
import time

import torch

from benchmarks.setting import case_of, parser, save, workload_of
from pytest_llmbench.engine.rounds import run_rounds, warm_up
from pytest_llmbench.engine.training import FineTuning, build_fine_tuning
from pytest_llmbench.worker.devices import Devices


def main() -> None:
    arguments = parser(__doc__, batch_size=4, max_length=2048, accumulation_steps=4, pairs=6).parse_args()
    case, workload = case_of(arguments), workload_of(arguments)
    devices = Devices(arguments.device, 1)
    training = build_fine_tuning(case, workload, devices.first)
    warm_up(training, devices.synchronise)
    ratios = []
    for pair in range(arguments.pairs):
        order = (measured, bare) if pair % 2 == 0 else (bare, measured)
        seconds = {timed: timed(training, devices) for timed in order}
        ratios.append(seconds[measured] / seconds[bare])
        print(f"pair {pair}: measured {seconds[measured]:.4f} s, bare {seconds[bare]:.4f} s, ratio {ratios[-1]:.4f}")
    print(f"median ratio measured / bare: {statistics.median(ratios):.4f}")
    save("overhead", {"case": case, "ratios": ratios})


def measured(training: FineTuning, devices: Devices) -> float:
    """Seconds of the rounds as a measuring process runs them, with all that is read around them."""
    with devices.watched():
        return sum(done.seconds for done in run_rounds(training, devices.synchronise).rounds)


def bare(training: FineTuning, devices: Devices) -> float:
    """Seconds of the same micro-batches and optimizer steps in the plainest loop there is."""
    gc.collect()
    gc.disable()
    devices.synchronise()
    started = time.perf_counter()
    for index in range(len(training.micro_batch_tokens)):
        training.micro_step(index)
        if (index + 1) % training.accumulation_steps == 0:
            training.optimizer_step()
    devices.synchronise()
    seconds = time.perf_counter() - started
    gc.enable()
    return seconds


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
