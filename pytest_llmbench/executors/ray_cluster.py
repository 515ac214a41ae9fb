"""
Cases as tasks of a Ray cluster: where the GPUs are, and in the environment that the nodes have.

The driver, where pytest runs, needs neither a GPU nor torch. What crosses the network is JSON.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pytest_llmbench.executors import NotMeasurable, SetupError
from pytest_llmbench.executors.local import MEASURE, PRELOAD
from pytest_llmbench.executors.pool import Announcements, Pool
from pytest_llmbench.executors.ray_node import Reply, Setup, measure_here, versions
from pytest_llmbench.schema.case import Case
from pytest_llmbench.schema.measurement import Measurement, failed
from pytest_llmbench.schema.protocol import Phase, Request, encode
from pytest_llmbench.schema.workload import Device

__all__ = ["Cluster", "RayCluster", "gpu_models", "lacking", "on_cluster"]

MAX_LOSSES = 3
"""Number of times that a case is measured again because its node was lost; then the case may be what kills nodes."""
LOOK_SECONDS = 0.5
"""How often a thread that waits for a case looks whether the run is over."""
CONNECT_SECONDS = 10.0
END_SECONDS = 10.0
"""Seconds for those threads to come back."""
_NOT_SHIPPED = (".git", "llmbench-results", "__pycache__", "*.pyc")
"""Places in the folder that the nodes get a copy of, as .gitignore has it."""
_MODEL = "accelerator_type:"
"""With what Ray's name for the resource of a GPU model begins."""

Nodes = Iterable[Mapping[str, Any]]
"""What `ray.nodes()` says."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Which Ray cluster, and what to ask of it."""

    address: str = "auto"
    """Address as `ray.init` takes it: `auto` is the cluster that this machine belongs to."""
    accelerator: str | None = None
    """GPU model to ask for, as Ray names it (`H100`); None where there is only one in the cluster."""
    working_dir: Path | None = None
    """Folder that the nodes get a copy of, in which custom steps are found."""
    ships_code: bool = True
    """Nodes run this package as the driver has it; without, as it is installed there."""
    runtime_env: dict[str, Any] = {}
    """What else Ray's runtime environment is to have, as {"pip": ["msgspec"]}."""
    patience_seconds: float = 300.0
    """How long to wait for a node that a case fits on, where none is there."""


class RayCluster:
    """
    An executor that runs each case as a task of a Ray cluster, on one node with all GPUs that it needs.

    `run` may be called from any number of threads: Ray queues what does not fit. A case whose node is
    lost or preempted is measured again from the start. Ray is connected to when the first case comes.

    Args:
        cluster: where.
        device: what to measure on.
        timeout_seconds: deadline of a case, from when a node begins with it.
        announce: called with a sentence when something is not as it was asked for, in the thread of `run`.
        measure: `module:function` that measures, see `LocalExecutor`.
        preload: modules that servers import, see `LocalExecutor`.
    """

    def __init__(
        self,
        cluster: Cluster,
        device: Device,
        *,
        timeout_seconds: float,
        announce: Callable[[str], None],
        measure: str = MEASURE,
        preload: Sequence[str] = PRELOAD,
    ) -> None:
        self._cluster = cluster
        self._device = device
        self._announce = announce
        self._setup = msgspec.json.encode(
            Setup(
                versions=versions(),
                has_own_code=not cluster.ships_code,
                device=device,
                timeout_seconds=timeout_seconds,
                measure=measure,
                preload=tuple(preload),
            )
        )
        self._changed = threading.Condition()
        self._ray: Any = None
        self._task: Any = None
        self._in_flight: set[Any] = set()
        self._closed = False
        self._spent = threading.local()

    def __str__(self) -> str:
        wanted = f" with {self._cluster.accelerator}" if self._cluster.accelerator else ""
        return f"Ray cluster {self._cluster.address}{wanted}"

    @property
    def last_seconds(self) -> float | None:
        """How long the last case of this thread took on its node; None if it did not come back from there."""
        return getattr(self._spent, "seconds", None)

    def run(self, request: Request, on_phase: Callable[[Phase], None]) -> Measurement:
        """
        Measure *request* once; see `Executor.run`. A lost node is no outcome but a reason to measure again.
        """
        ray = self._connected()
        self._spent.seconds = None
        on_phase(Phase(name="on the cluster"))
        losses: list[str] = []
        while len(losses) <= MAX_LOSSES and not self._closed:
            try:
                return self._measurement(self._awaited(ray, request))
            except _NoNodeError as error:
                if not losses:
                    raise NotMeasurable(str(error)) from None
                losses.append(str(error))
                break
            except ray.exceptions.RuntimeEnvSetupError as error:
                raise SetupError(f"Ray cannot give its nodes what the run needs: {error}") from None
            except ray.exceptions.RayTaskError as error:
                last = str(error).strip().rpartition("\n")[2]  # the traceback comes first
                raise SetupError(f"a node of the Ray cluster cannot run the package: {last}") from None
            except ray.exceptions.RayError as error:
                losses.append(str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__)
                if not self._closed:
                    self._announce(f"{request.case.model} is measured again: {losses[-1]}")
        why = f"its node was lost, {len(losses)} times in all: {losses[-1]}" if losses else "the run is over"
        return failed(request.case, request.workload, "crashed", why)

    def close(self) -> None:
        """End every task. Threads in `run` come back with cases that have crashed."""
        with self._changed:
            self._closed = True
            if self._ray is None:
                return
            for reference in self._in_flight:
                self._ray.cancel(reference, force=True)
            self._changed.wait_for(lambda: not self._in_flight, END_SECONDS)
            self._ray.shutdown()

    def _connected(self) -> Any:
        with self._changed:
            if self._ray is None:
                try:
                    ray = importlib.import_module("ray")
                except ImportError as error:
                    told = f"ray cannot be imported ({error}); pip install 'pytest-llmbench[cluster]'"
                    raise SetupError(told) from None
                _check_listens(self._cluster.address)
                try:
                    ray.init(
                        address=self._cluster.address,
                        runtime_env=_runtime_env(self._cluster),
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                    )
                except (ConnectionError, RuntimeError, ValueError) as error:
                    raise SetupError(f"Ray cluster {self._cluster.address}: {error}") from None
                # Its worker process is to stay: the server that it started is warm, and has no GPU memory.
                self._check_one_model(ray.nodes())
                self._task = ray.remote(max_retries=0, max_calls=0)(measure_here)
                self._ray = ray
            return self._ray

    def _check_one_model(self, nodes: Nodes) -> None:
        """Processes of one row may land on different nodes, and have to be comparable."""
        models = gpu_models(nodes)
        if self._device == "cuda" and self._cluster.accelerator is None and len(models) > 1:
            raise SetupError(
                f"Ray cluster {self._cluster.address} has GPUs of several models ({', '.join(models)}), which do not "
                "compare; run once for each, with --llmbench-ray-gpu"
            )

    def _awaited(self, ray: Any, request: Request) -> bytes:
        """
        Raises:
            _NoNodeError: for a long time no node was there that the case fits on.
        """
        case = request.case
        options = {"num_cpus": case.num_ranks} | self._gpus(case)
        reference = self._task.options(**options).remote(self._setup, encode(request))
        with self._changed:
            self._in_flight.add(reference)
        try:
            deadline = time.monotonic() + self._cluster.patience_seconds
            while not ray.wait([reference], timeout=LOOK_SECONDS)[0] and not self._closed:
                if (why := lacking(ray.nodes(), options)) is None:
                    deadline = time.monotonic() + self._cluster.patience_seconds
                elif time.monotonic() > deadline:
                    ray.cancel(reference, force=True)
                    raise _NoNodeError(why)
            if self._closed:
                raise ray.exceptions.TaskCancelledError
            answer: bytes = ray.get(reference)
            return answer
        finally:
            with self._changed:
                self._in_flight.remove(reference)
                self._changed.notify_all()

    def _gpus(self, case: Case) -> dict[str, Any]:
        """Resources to ask Ray for, apart from CPUs."""
        if self._device != "cuda":
            return {}
        wanted: dict[str, Any] = {"num_gpus": case.num_gpus}
        return wanted | ({"accelerator_type": self._cluster.accelerator} if self._cluster.accelerator else {})

    def _measurement(self, answer: bytes) -> Measurement:
        """
        Raises:
            NotMeasurable: the node has nothing to measure on.
            SetupError: it cannot measure as the run was set up.
        """
        try:
            reply = msgspec.json.decode(answer, type=Reply)
        except msgspec.DecodeError as error:
            raise SetupError(
                f"a node of the Ray cluster answers as another pytest-llmbench than the driver's does ({error}); "
                "install the same in both"
            ) from None
        for sentence in reply.announcements:
            self._announce(f"node {reply.node}: {sentence}")
        if reply.refused == "not measurable":
            raise NotMeasurable(f"node {reply.node}: {reply.reason}")
        if reply.measurement is None:
            raise SetupError(f"node {reply.node}: {reply.reason}")
        self._spent.seconds = reply.seconds
        return reply.measurement


def on_cluster(
    cluster: Cluster,
    device: Device,
    *,
    timeout_seconds: float,
    seconds: Callable[[Request], float],
    announce: Callable[[str], None],
    measure: str = MEASURE,
    preload: Sequence[str] = PRELOAD,
) -> Pool:
    """
    A cluster as an executor that has all cases in Ray's queue at once, the longest first.

    See `RayCluster` and `Pool`; *announce* is called in the thread that called this.
    """
    announcements = Announcements(announce)
    executor = RayCluster(
        cluster, device, timeout_seconds=timeout_seconds, announce=announcements, measure=measure, preload=preload
    )
    return Pool(executor, slots=None, width=lambda _: 1, seconds=seconds, announcements=announcements)


def lacking(nodes: Nodes, options: Mapping[str, Any]) -> str | None:
    """
    Why a task could not run even if nothing else did, or None if a living node has all it needs.

    Args:
        nodes: of the cluster.
        options: of the task: `num_cpus`, and perhaps `num_gpus` and `accelerator_type`.
    """
    wanted = {"CPU": options["num_cpus"]}
    if "num_gpus" in options:
        wanted["GPU"] = options["num_gpus"]
    if "accelerator_type" in options:
        wanted[f"{_MODEL}{options['accelerator_type']}"] = 0.001  # so little of it does Ray itself ask for
    living = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(has.get(name, 0) >= count for name, count in wanted.items()) for has in living):
        return None
    told = ", ".join(f"{count} {name}" if count >= 1 else name for name, count in wanted.items())
    return f"needs {told} on one node, and of the {len(living)} nodes of the Ray cluster none has that"


def gpu_models(nodes: Nodes) -> list[str]:
    """The GPU models of the living nodes, as Ray names them."""
    names = {name for node in nodes if node["Alive"] for name in node["Resources"]}
    return sorted(name.removeprefix(_MODEL) for name in names if name.startswith(_MODEL))


def _check_listens(address: str) -> None:
    """Ray would try for minutes, and end the process then."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise SetupError(f"Ray cluster {address}: nothing answers there ({error})") from None


def _runtime_env(cluster: Cluster) -> dict[str, Any]:
    found = dict(cluster.runtime_env)
    if cluster.working_dir is not None:
        found |= {"working_dir": str(cluster.working_dir), "excludes": list(_NOT_SHIPPED)}
    if cluster.ships_code:
        found["py_modules"] = [str(Path(__file__).parents[1])]
    return found


class _NoNodeError(Exception):
    """The cluster has no node for a case; the message says what it lacks."""
