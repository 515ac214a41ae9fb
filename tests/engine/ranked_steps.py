"""Custom steps of several ranks, which run into trouble on one of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import torch
import torch.distributed as dist


def meet() -> None:
    """Where every rank waits for all others."""
    dist.all_reduce(torch.ones(1))


def unlike(trouble: Callable[[], None], rank: int = 1) -> Callable[[], int]:
    """A step in whose third call one rank has trouble, and the others wait for it."""
    calls = iter(range(1000))

    def step() -> int:
        if next(calls) == 2 and dist.get_rank() == rank:
            trouble()
        meet()
        return 1

    return step


def killed(device: torch.device) -> Callable[[], int]:
    return unlike(lambda: os.kill(os.getpid(), signal.SIGKILL))


def first_killed(device: torch.device) -> Callable[[], int]:
    return unlike(lambda: os.kill(os.getpid(), signal.SIGKILL), rank=0)


def exited(device: torch.device) -> Callable[[], int]:
    return unlike(lambda: os._exit(3))


def error(device: torch.device) -> Callable[[], int]:
    def trouble() -> None:
        raise ValueError("the second shard is missing")

    return unlike(trouble)


def out_of_memory(device: torch.device) -> Callable[[], int]:
    def trouble() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    return unlike(trouble)


def sleep_for_ever() -> None:
    time.sleep(600)


def hanging(device: torch.device) -> Callable[[], int]:
    return unlike(sleep_for_ever)


def all_out_of_memory(device: torch.device) -> Callable[[], int]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def uneven(device: torch.device) -> Callable[[], int]:
    """The second rank trains on three samples where the first does on one, and takes the longer for each step."""
    rank = dist.get_rank()

    def step() -> int:
        end = time.process_time() + 0.01 * (1 + 5 * rank)
        while time.process_time() < end:
            pass
        meet()
        return 1 + 2 * int(rank)

    return step


def as_torchrun_says(device: torch.device) -> Callable[[], int]:
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == (str(dist.get_rank()), str(dist.get_world_size()))
    return lambda: 1


def with_descendant(device: torch.device) -> Callable[[], int]:
    """Leaves a process behind that has left the group and holds what the rank has open."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    return killed(device)
