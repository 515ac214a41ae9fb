"""A plugin: this machine's executor over the GPUs that NVML shows, whose processes need neither torch nor a GPU."""

from __future__ import annotations

from pytest_llmbench.executors import machine


def pytest_configure() -> None:
    """The real one would want a training stack, and a GPU for it."""
    defaults = machine.Machine.__init__.__kwdefaults__
    assert defaults is not None
    assert defaults.keys() >= {"measure", "preload"}
    defaults.update(measure="faulty:measure", preload=("faulty",))
    machine.STACK = ()  # type: ignore[assignment]
