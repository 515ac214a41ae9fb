"""`llmbench doctor`: whether a measurement could run here, and what would spoil it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
import typer

from pytest_llmbench.cli.diagnosis import Backend, Diagnosis, GpuState, diagnose
from pytest_llmbench.schema.units import gib

__all__ = ["doctor", "lines"]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    device: Annotated[
        Literal["cuda", "cpu"], typer.Option(help="What is to be measured on; cpu: miniatures at smoke scale.")
    ] = "cuda",
) -> None:
    """Say what this machine can measure, and why not; exits with status 1 if no measurement could run."""
    found = diagnose(device)
    if as_json:
        told = {**msgspec.to_builtins(found), "obstacles": found.obstacles, "warnings": found.warnings}
        typer.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    else:
        for line in lines(found):
            typer.echo(line)
    if found.obstacles:
        raise typer.Exit(1)


def lines(found: Diagnosis) -> Iterator[str]:
    """The diagnosis as text, the verdict last."""
    namespace = {
        True: "its own, as in a container: NVML may show others' PIDs",
        False: "the machine's",
        None: "unknown",
    }
    yield "machine"
    yield _fact("system", f"{found.system}, {found.cpus} CPUs")
    yield _fact("python", found.python)
    yield _fact("PID namespace", namespace[found.own_pid_namespace])
    yield _fact("driver", found.driver or "none")
    yield _fact("nvidia-ml-py", found.nvml_binding or "not installed; pip install nvidia-ml-py")
    for name, value in found.variables.items():
        yield _fact(name, value)
    for gpu in found.gpus:
        yield from ("", f"GPU {gpu.index}: {gpu.name}, {gpu.uuid}")
        yield from _gpu(gpu)
    for kind, title in (
        ("library", "libraries"),
        ("device", "device"),
        ("attention", "attention"),
        ("quantization", "quantization"),
        ("model", "models of other packages"),
    ):
        backends = [backend for backend in found.backends if backend.kind == kind]
        if backends:
            yield from ("", title)
            yield from map(_backend, backends)
    yield ""
    for warning in found.warnings:
        yield f"llmbench: warning: {warning}"
    yield from _verdict(found)


def _verdict(found: Diagnosis) -> Iterator[str]:
    for obstacle in found.obstacles:
        yield f"llmbench: {obstacle}"
    where = "full-scale rows can be measured here" if found.device == "cuda" else "miniatures can be measured here"
    hint = " (llmbench doctor --device cpu: could miniatures?)" if found.device == "cuda" else ""
    yield f"llmbench: nothing can be measured here{hint}" if found.obstacles else f"llmbench: {where}"


def _gpu(gpu: GpuState) -> Iterator[str]:
    if gpu.total_bytes is not None and gpu.used_bytes is not None:
        free = gpu.total_bytes - gpu.used_bytes - (gpu.driver_reserved_bytes or 0)
        kept = f", {gib(gpu.driver_reserved_bytes)} kept by the driver" if gpu.driver_reserved_bytes is not None else ""
        yield _fact("memory", f"{gib(free)} GiB free of {gib(gpu.total_bytes)}, {gib(gpu.used_bytes)} in use{kept}")
    yield _fact("other processes", _processes(gpu.processes))
    yield _fact("clocks", f"SM {_known(gpu.sm_clock_mhz, 'MHz')}, memory {_known(gpu.memory_clock_mhz, 'MHz')}")
    yield _fact("held down by", ", ".join(gpu.held_down_by) or "nothing")
    yield _fact("power", f"{_known(gpu.power_watts, 'W')} of {_known(gpu.power_limit_watts, 'W')}")
    yield _fact("temperature", _known(gpu.temperature_celsius, "degrees Celsius"))
    yield _fact("energy counter", "yes" if gpu.energy_counter else "no")
    for name, reason in gpu.missing.items():
        yield _fact(f"no {name}", reason)


def _processes(processes: dict[int, int | None] | None) -> str:
    if processes is None:
        return "unknown"
    shown = (f"{pid} ({gib(used)} GiB)" if used is not None else str(pid) for pid, used in processes.items())
    return ", ".join(shown) or "none"


def _known(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:.4g} {unit}"


def _backend(backend: Backend) -> str:
    if backend.absent:
        return f"  --  {backend.name:<16}{backend.absent}"
    if backend.trouble:
        version = f"{backend.version}: " if backend.version else ""
        return f"  no  {backend.name:<16}{version}{backend.trouble}"
    return f"  ok  {backend.name:<16}{backend.version or ''}".rstrip()


def _fact(name: str, value: str) -> str:
    return f"  {name:<20}{value}"
