"""
One rank of a case that several processes train together: it joins their group and measures its share.
"""

from __future__ import annotations

import datetime as dt
import faulthandler
import os
import time
from collections.abc import Callable

import msgspec
import torch
import torch.distributed as dist

from pytest_llmbench.schema.measurement import Measurement
from pytest_llmbench.schema.protocol import Phase, Request, Surroundings
from pytest_llmbench.worker.child import STACK_SIGNAL
from pytest_llmbench.worker.measure import measure as measure_share
from pytest_llmbench.worker.merge import COMPUTE

__all__ = ["Seat", "measure"]

_NEVER = dt.timedelta(days=1)
"""The case's own deadline ends what hangs, and says more."""


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank is told by the process that started it."""

    rank: int
    num_ranks: int
    port: int
    listener: int
    """File descriptor of the socket that listens on *port*; the first rank serves it."""
    stack: int
    """File descriptor to which the rank writes where it stands, when it is asked to."""


def _take(seat: Seat) -> None:
    """This process is that rank from now on; its environment says so as that of torchrun does."""
    os.environ |= {
        "RANK": str(seat.rank),
        "WORLD_SIZE": str(seat.num_ranks),
        "LOCAL_RANK": "0",  # its GPU is the only one that it sees
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(seat.port),
    }
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are here, and a host's name may lead nowhere


def measure(seat: Seat, request: Request, report: Callable[[Phase | Surroundings], None]) -> Measurement:
    """This rank's share; see `worker.measure.measure`. Every rank has to come to the same end."""
    _take(seat)
    faulthandler.register(STACK_SIGNAL, file=seat.stack, all_threads=False)
    if seat.num_ranks > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # as torchrun has it: each rank would take all CPUs
    _join(seat, request.workload.device)
    clock = _Clock(report)
    measurement = measure_share(request, clock.hear)
    (process,) = measurement.processes
    if process.outcome != "ok":
        return measurement  # the others may never come to the barrier
    # The first rank holds what all of them meet by.
    dist.barrier(device_ids=[0] if request.workload.device == "cuda" else None)
    dist.destroy_process_group()
    if process.kernels:
        seconds = sum(one.seconds_per_sample for one in process.kernels if not one.name.startswith("nccl"))
    else:
        seconds = clock.seconds / sum(done.samples for done in process.rounds)
    process = msgspec.structs.replace(process, ran={**process.ran, COMPUTE: repr(seconds)})
    return msgspec.structs.replace(measurement, processes=(process,))


def _join(seat: Seat, device: str) -> None:
    listener = seat.listener if seat.rank == 0 else None
    store = dist.TCPStore(
        "127.0.0.1", seat.port, seat.num_ranks, is_master=seat.rank == 0, timeout=_NEVER, master_listen_fd=listener
    )
    # Not told its device, NCCL leaves the GPU alone until it is used: the idle floor has yet to be read.
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.num_ranks, timeout=_NEVER)


class _Clock:
    """CPU seconds of this process in the rounds; a rank that waits for another on the CPU uses none."""

    def __init__(self, report: Callable[[Phase | Surroundings], None]) -> None:
        self.seconds = 0.0
        self._report = report
        self._phase = ""

    def hear(self, message: Phase | Surroundings) -> None:
        if isinstance(message, Phase) and message.name != self._phase:
            if self._phase == "rounds":
                self.seconds += time.process_time()
            if message.name == "rounds":
                self.seconds -= time.process_time()
            self._phase = message.name
        self._report(message)
