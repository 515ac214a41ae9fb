"""
The fork server: imports the training stack once, then forks a fresh process for each request.

A request is one packet on the control socket: the request's line, and with it two file
descriptors, the pipe on which the measuring process answers and the file that takes its output.
The executor takes a case back by closing its end of that pipe; its death does the same.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import msgspec

from pytest_llmbench.host.distribution import origins
from pytest_llmbench.schema.environment import PACKAGES
from pytest_llmbench.schema.protocol import Ended, Ready, Started, encode
from pytest_llmbench.worker import child, descendants
from pytest_llmbench.worker.preload import preload as import_ahead

__all__ = ["serve"]

MAX_REQUEST_BYTES = 2**20
STACK_SECONDS = 0.2
"""How long a process that is to be killed may take to write down where it stands."""


class _Order(msgspec.Struct, frozen=True):
    """A request as it came, undecoded: what is wrong with it is the child's to say."""

    line: bytes
    channel: int
    log: int


def serve(control: socket.socket, *, preload: tuple[str, ...], measure: str) -> None:
    """
    Run requests one after the other until the executor closes *control* or dies.

    Args:
        control: a connected SOCK_SEQPACKET socket.
        preload: modules to import before forking.
        measure: `module:function`, see `child.main`.
    """
    descendants.adopt_orphans()
    with _ending_with(control):
        poisoned = import_ahead(preload)
        origins(PACKAGES)  # once for all processes; of what was imported, whatever is edited from now on
    gc.collect()
    gc.freeze()  # or the first collection of each child would copy every page of the libraries
    with _Watch(control) as watch, suppress(BrokenPipeError, ConnectionResetError):
        control.send(encode(Ready(poisoned)))
        while (order := watch.next_order()) is not None:
            _run(order, watch, control, measure)


@contextmanager
def _ending_with(control: socket.socket) -> Iterator[None]:
    """Let the kernel end this process if the executor goes meanwhile, even while an import hangs."""
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)  # SIGIO, which kills who does not handle it
    yield
    fcntl.fcntl(control, fcntl.F_SETFL, flags)


def _run(order: _Order, watch: _Watch, control: socket.socket, measure: str) -> None:
    """Fork, watch and clear away one measuring process."""
    sys.stdout.flush()
    sys.stderr.flush()
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        child.live(partial(_be_child, order, watch, measure, server))
    os.close(order.log)
    control.send(encode(Started(pid)))
    status = watch.until_over(pid, order.channel)
    os.close(order.channel)  # the executor reads on until the last writer is gone
    control.send(encode(Ended(pid, os.waitstatus_to_exitcode(status))))


def _be_child(order: _Order, watch: _Watch, measure: str, server: int) -> None:
    """Life of the process that was forked for an order."""
    os.setsid()
    descendants.die_with(server)
    watch.close()
    os.dup2(order.log, 1)
    os.dup2(order.log, 2)
    os.close(order.log)
    child.main(order.line, order.channel, partial(child.named, measure))


class _Watch:
    """Everything the server waits for: requests and ended children."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._bell, ringer = socket.socketpair()
        self._open = ExitStack()
        self._bell.setblocking(False)
        ringer.setblocking(False)
        for end in (control, self._bell, ringer):
            self._open.callback(end.close)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(ringer.fileno(), warn_on_full_buffer=False)
        self._open.callback(signal.signal, signal.SIGCHLD, signal.SIG_DFL)
        self._open.callback(signal.set_wakeup_fd, -1)

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def next_order(self) -> _Order | None:
        """Wait for a request; None when there will be none any more."""
        poller = self._poller()
        poller.register(self._control, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            self._hush()
            descendants.reap()
            if self._control.fileno() in ready:
                line, files, _, _ = socket.recv_fds(self._control, MAX_REQUEST_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
                return _Order(line, *files) if line else None

    def until_over(self, pid: int, channel: int) -> int:
        """
        Wait for process *pid*, killing it when nobody reads *channel* any more, and end what it left.

        Returns:
            Its wait status.
        """
        poller = self._poller()
        poller.register(channel, 0)  # a pipe without a reader reports an error unasked
        statuses: dict[int, int] = {}
        while pid not in statuses:
            ready = {fd for fd, _ in poller.poll()}
            self._hush()
            statuses |= descendants.reap()
            if channel in ready and pid not in statuses:
                statuses |= self._stop(pid)
        return (statuses | descendants.end_all())[pid]

    def _stop(self, pid: int) -> dict[int, int]:
        """Kill *pid* and its group, once it has said where it stands."""
        os.kill(pid, child.STACK_SIGNAL)
        select.select([self._bell], [], [], STACK_SECONDS)
        for kill in (os.killpg, os.kill):  # it leads no group yet if it was only just forked
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
        return descendants.end_all()

    def _poller(self) -> select.poll:
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        return poller

    def _hush(self) -> None:
        with suppress(BlockingIOError):
            while self._bell.recv(4096):
                pass
