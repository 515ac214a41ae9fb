"""The executor's handle on one fork server process: start, ask, listen, end."""

from __future__ import annotations

import select
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from pytest_llmbench.executors.channel import Channel
from pytest_llmbench.executors.log import Log
from pytest_llmbench.schema.protocol import Ended, Message, Ready, Request, Started, decode_message, encode, ended
from pytest_llmbench.schema.text import printable_json

__all__ = ["TICK_SECONDS", "Server", "ServerError"]

START_SECONDS = 300.0
"""Limit for importing the training stack from a cold network file system."""
END_SECONDS = 10.0
"""Limit for a killed process tree to be gone: the driver takes its time to release a GPU's memory."""
TICK_SECONDS = 1.0
"""Between two words to a person who waits, where there is no news."""
MAX_PACKET_BYTES = 2**16

MARKER = "PYTEST_LLMBENCH_SERVER"
"""Environment variable that everything below one server carries, whoever its parent has become."""


class ServerError(Exception):
    """The server did not start, or has died; the message says how."""


class Server:
    """
    A running fork server, one request at a time.

    Attributes:
        log: what the server itself prints; to be read while one waits for it.
        poisoned: why its children could not use CUDA, or None.
        busy: it has a request that is not over.
        child: process id of the measuring process, from its start to its end.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, marker: str, log: Log) -> None:
        self._process = process
        self._control = control
        self._marker = marker
        self.log = log
        self.poisoned: str | None = None
        self.busy = False
        self.child: int | None = None

    @classmethod
    def start(
        cls,
        python: Path,
        measure: str,
        preload: Sequence[str],
        environ: Mapping[str, str],
        on_start: Callable[[Self], None] = lambda _: None,
        *,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Self:
        """
        Start a server and wait until it has imported *preload*.

        Args:
            on_start: called before that with the server, which nothing but `interrupt` can be done with yet.
            on_wait: called every `TICK_SECONDS` meanwhile.

        Raises:
            ServerError: it did not get that far.
        """
        marker = uuid.uuid4().hex
        log = Log()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [str(python), "-m", "pytest_llmbench.worker", "--control-fd", str(theirs.fileno())]
        command += ["--measure", measure, "--preload", ",".join(preload)]
        try:
            with theirs:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log.writer,
                    stderr=log.writer,
                    env={**environ, MARKER: marker},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            log.close()
            raise ServerError(f"{python} cannot be run: {error.strerror}") from None
        log.start()
        server = cls(process, ours, marker, log)
        try:
            on_start(server)
            server._await_ready(on_wait)
        except BaseException:
            server.kill()
            raise
        return server

    def fileno(self) -> int:
        return self._control.fileno()

    def check(self) -> None:
        """
        Raises:
            ServerError: the idle server has died.
        """
        if select.select([self._control], [], [], 0)[0]:  # it has nothing to say of its own accord
            raise self._death()

    def submit(self, request: Request, channel: Channel, log: Log) -> None:
        """
        Ask for a fresh process that measures *request*.

        Raises:
            ServerError: the server is gone.
        """
        self.busy = True
        try:
            socket.send_fds(self._control, [encode(request)], [channel.writer, log.writer])
        except OSError:
            raise self._death() from None
        channel.start()
        log.start()

    def hear(self) -> Message:
        """
        The next message; blocks until there is one.

        Raises:
            ServerError: the server is gone.
        """
        try:
            packet = self._control.recv(MAX_PACKET_BYTES)
        except ConnectionResetError:
            packet = b""
        if not packet:
            raise self._death()
        try:
            message = decode_message(printable_json(packet))
        except msgspec.DecodeError as error:
            raise ServerError(f"the server speaks another protocol: {error}") from None
        match message:
            case Started(pid):
                self.child = pid
            case Ended():
                self.child, self.busy = None, False
            case _:
                pass
        return message

    def end_case(self, log: Log) -> bool:
        """Wait until the tree of the case whose channel was closed is gone; False if it stays."""
        deadline = time.monotonic() + END_SECONDS
        while self.busy:
            if not self._await_word(log, deadline):
                return False
            self.hear()
        return True

    def stop(self) -> None:
        """Let an idle server go."""
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self.kill()

    def interrupt(self) -> None:
        """Kill the server from another thread; the one that waits for it hears of its death and clears away."""
        self._process.terminate()

    def kill(self) -> None:
        """Kill the server and everything below it, which its keeper does, unless that was killed, too."""
        self._control.close()
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _kill_marked(self._marker, {self.child} if self.child else set())
        self.log.close()

    def _await_word(self, log: Log, deadline: float) -> bool:
        """
        Wait for the server's next message, reading *log* meanwhile; False if there was none in time.

        Args:
            deadline: on the clock of `time.monotonic()`, in seconds.
        """
        waiting: list[socket.socket | Log] = [self._control, log]
        while True:
            remaining = max(0.0, deadline - time.monotonic())
            ready = select.select(waiting, [], [], remaining)[0]
            if log in ready and not log.read():
                waiting.remove(log)  # its last writer has gone
            if self._control in ready:
                return True
            if not ready:
                return False

    def _await_ready(self, on_wait: Callable[[], None]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not (heard := self._await_word(self.log, time.monotonic() + TICK_SECONDS)):
            if time.monotonic() >= deadline:
                break
            on_wait()
        if not heard:
            raise ServerError(f"the server did not start within {START_SECONDS:.0f} s{self._said()}")
        message = self.hear()
        if not isinstance(message, Ready):
            raise ServerError(f"the server speaks another protocol: {type(message).__name__} instead of Ready")
        self.poisoned = message.poisoned

    def _death(self) -> ServerError:
        """Error that says what became of a server that hung up."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return ServerError(f"the server hung up{self._said()}")
        return ServerError(f"the server {'was ' if status < 0 else ''}{ended(status)}{self._said()}")

    def _said(self) -> str:
        lines = self.log.last_lines()
        return f"; its last output:\n{lines}" if lines else ""


def _kill_marked(marker: str, known: set[int]) -> None:
    """
    Kill the processes that were started with *marker* in their environment, and wait for them.

    Orphans of a server that was killed together with its keeper have no ancestor left who knows them.

    Args:
        marker: value of `MARKER`.
        known: processes that the kernel may be ending already; their environment is gone, but they
            may still hold a GPU's memory.
    """
    import psutil

    deadline = time.monotonic() + END_SECONDS
    ending = known
    while time.monotonic() < deadline:
        left = set()
        for process in psutil.process_iter(["environ", "status"]):
            is_marked = (process.info["environ"] or {}).get(MARKER) == marker
            if is_marked:
                with suppress(psutil.Error):
                    process.kill()
            if is_marked or (process.pid in ending and process.info["status"] != psutil.STATUS_ZOMBIE):
                left.add(process.pid)
        ending = left
        if not ending:
            return
        time.sleep(0.01)
